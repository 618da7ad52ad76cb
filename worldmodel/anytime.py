"""Command line: see `worldmodel.studies.anytime`."""

from __future__ import annotations

import sys

from worldmodel.studies.anytime import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
