"""Train a world model on recorded episodes.

python -m worldmodel.train --config configs/pusht.yaml [--optim.lr 3e-4 ...]
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.training.config import TrainConfig
from worldmodel.training.trainer import train


@run
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    description = "Train a world model on recorded episodes, with a frozen encoder."
    config = parse_config(TrainConfig, argv, "worldmodel.train", description)
    print(f"wrote {train(config)}")


if __name__ == "__main__":
    sys.exit(main())
