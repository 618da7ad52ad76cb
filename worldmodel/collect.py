"""Record episodes of any Gymnasium environment that renders, as a Minari dataset.

python -m worldmodel.collect --env worldmodel/PushT-v0 --episodes 2000 --out data/pusht
"""

from __future__ import annotations

import os
import sys

from worldmodel.cli import parse_config, run
from worldmodel.data.collection import CollectConfig, collect, collection_summary


@run
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    config = parse_config(
        CollectConfig, argv, "worldmodel.collect", "Record episodes as a Minari dataset."
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers inherit it
    print(collection_summary(config, collect(config)))


if __name__ == "__main__":
    sys.exit(main())
