"""Pretrain the project's own encoder on recorded frames.

python -m worldmodel.pretrain --config configs/ibot.yaml --out runs/ibot
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.training.pretraining import PretrainConfig, pretrain


@run
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    description = "Pretrain the project's own encoder on recorded frames."
    config = parse_config(PretrainConfig, argv, "worldmodel.pretrain", description)
    print(f"wrote {pretrain(config)}")


if __name__ == "__main__":
    sys.exit(main())
