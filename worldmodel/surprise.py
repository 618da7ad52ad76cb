"""Command line: see `worldmodel.studies.surprise`."""

from __future__ import annotations

import sys

from worldmodel.studies.surprise import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
