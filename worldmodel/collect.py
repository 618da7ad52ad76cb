"""Command line: see `worldmodel.data.collection`."""

from __future__ import annotations

import sys

from worldmodel.data.collection import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
