"""Command line: see `worldmodel.studies.bench`."""

from __future__ import annotations

import sys

from worldmodel.studies.bench import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
