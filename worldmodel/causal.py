"""Command line: see `worldmodel.studies.causal`."""

from __future__ import annotations

import sys

from worldmodel.studies.causal import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
