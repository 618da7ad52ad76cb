"""Command line: see `worldmodel.measure.calibration`."""

from __future__ import annotations

import sys

from worldmodel.measure.calibration import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
