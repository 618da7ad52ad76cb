"""Command line: see `worldmodel.studies.report`."""

from __future__ import annotations

import sys

from worldmodel.studies.report import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
