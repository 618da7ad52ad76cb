"""Train a world model on recorded episodes.

python -m worldmodel.train --config configs/pusht.yaml [--optim.lr 3e-4 ...]
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.errors import UserError
from worldmodel.measure.reading import store_reading
from worldmodel.training.config import TrainConfig
from worldmodel.training.trainer import train


@run
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    description = "Train a world model on recorded episodes, with a frozen encoder."
    config = parse_config(TrainConfig, argv, "worldmodel.train", description)
    folder = train(config)
    try:
        print(store_reading(folder, config.data.split(",")[0], config.device))
    except UserError as error:
        print(f"what can be read off latents was not measured: {error}")
    print(f"wrote {folder}")


if __name__ == "__main__":
    sys.exit(main())
