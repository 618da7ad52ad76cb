"""Command line: see `worldmodel.deploy.finishing`."""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.deploy.finishing import FinishConfig, finish


@run
def main(argv: list[str] | None = None) -> None:
    """Add probe, decoder, familiar frames, usual errors and margins to a checkpoint."""
    description = "Add everything to a checkpoint that is measured after training."
    finish(parse_config(FinishConfig, argv, "worldmodel.finish", description))


if __name__ == "__main__":
    sys.exit(main())
