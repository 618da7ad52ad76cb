"""Command line: see `worldmodel.training.decoder_training`."""

from __future__ import annotations

import sys

from worldmodel.training.decoder_training import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
