"""Command line: see `worldmodel.measure.tasks`."""

from __future__ import annotations

import sys

from worldmodel.measure.tasks import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
