"""Command line: see `worldmodel.measure.acting`."""

from __future__ import annotations

import sys

from worldmodel.measure.acting import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
