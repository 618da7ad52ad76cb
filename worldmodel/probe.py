"""Command line: see `worldmodel.measure.probing`."""

from __future__ import annotations

import sys

from worldmodel.measure.probing import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
