"""Print what a model is: its data, sizes, errors, and what it reads off images.

python -m worldmodel.inspect --checkpoint runs/robot/checkpoint
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

from worldmodel.cli import parse_config, run
from worldmodel.models.checkpoint import load_info
from worldmodel.models.summary import checkpoint_summary


@dataclass(frozen=True)
class InspectConfig:
    """Which model to show."""

    POSITIONAL: ClassVar = "checkpoint"

    checkpoint: str
    """Bundled name, folder or hf:USER/NAME. --checkpoint may be left out before it."""


@run
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    config = parse_config(InspectConfig, argv, "worldmodel.inspect", "Print what a model is.")
    print(checkpoint_summary(config.checkpoint, load_info(config.checkpoint)))


if __name__ == "__main__":
    sys.exit(main())
