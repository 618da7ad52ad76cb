"""Command line: see `worldmodel.measure.familiar_frames`."""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.measure.familiar_frames import FamiliarConfig, store_familiar


@run
def main(argv: list[str] | None = None) -> None:
    """Store frames, print a sentence about them."""
    description = "Store frames of the data, so that plans stay near them."
    print(store_familiar(parse_config(FamiliarConfig, argv, "worldmodel.familiar", description)))


if __name__ == "__main__":
    sys.exit(main())
