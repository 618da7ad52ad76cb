"""Convert recorded episodes of other programs into a Minari dataset, or show what is in them.

python -m worldmodel.convert my/lerobot/dataset
python -m worldmodel.convert my/lerobot/dataset --camera observation.images.top --out data/robot
python -m worldmodel.convert data/robot --to lerobot --fps 10 --out my/exported
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.data.conversion import ConvertConfig, conversion_summary, convert, inspect
from worldmodel.data.dataset import open_dataset
from worldmodel.data.lerobot_writer import write_lerobot


@run
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    description = "Convert recorded episodes of other programs, or show what is in them."
    config = parse_config(ConvertConfig, argv, "worldmodel.convert", description)
    if config.out is None:
        print(inspect(config))
    elif config.to == "lerobot":
        dataset = open_dataset(config.source)
        write_lerobot(dataset, config.out, config.fps, config.task)
        print(f"wrote {dataset.episodes} episodes, {len(dataset)} frames, to {config.out}")
    else:
        print(conversion_summary(config, convert(config)))


if __name__ == "__main__":
    sys.exit(main())
