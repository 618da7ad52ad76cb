"""Command line: see `worldmodel.webapp.page`."""

from __future__ import annotations

import sys

from worldmodel.webapp.page import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
