"""Command line: see `worldmodel.encoders.pretraining`."""

from __future__ import annotations

import sys

from worldmodel.encoders.pretraining import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
