"""Command line: see `worldmodel.training.trainer`."""

from __future__ import annotations

import sys

from worldmodel.training.trainer import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
