"""Convert recorded episodes of other programs into a Minari dataset, or show what is in them.

python -m worldmodel.convert my/lerobot/dataset
python -m worldmodel.convert my/lerobot/dataset --camera observation.images.top --out data/robot
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.data.conversion import ConvertConfig, conversion_summary, convert, inspect


@run
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    description = "Convert recorded episodes of other programs, or show what is in them."
    config = parse_config(ConvertConfig, argv, "worldmodel.convert", description)
    if config.out is None:
        print(inspect(config))
    else:
        print(conversion_summary(config, convert(config)))


if __name__ == "__main__":
    sys.exit(main())
