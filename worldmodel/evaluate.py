"""Command line: see `worldmodel.measure.evaluation`."""

from __future__ import annotations

import sys

from worldmodel.measure.evaluation import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
