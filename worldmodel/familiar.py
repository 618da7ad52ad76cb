"""Command line: see `worldmodel.control.familiarity`."""

from __future__ import annotations

import sys

from worldmodel.control.familiarity import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
