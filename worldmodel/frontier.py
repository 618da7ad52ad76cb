"""Command line: see `worldmodel.studies.frontier`."""

from __future__ import annotations

import sys

from worldmodel.studies.frontier import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
