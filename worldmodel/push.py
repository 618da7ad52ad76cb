"""Upload a checkpoint to the Hugging Face Hub, with a model card.

python -m worldmodel.push --checkpoint runs/robot/checkpoint --to USER/NAME
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.deploy.pushing import PushConfig, push


@run
def main(argv: list[str] | None = None) -> None:
    """Upload, or write to a folder what would be uploaded."""
    description = "Upload a checkpoint to the Hugging Face Hub."
    print(f"wrote {push(parse_config(PushConfig, argv, 'worldmodel.push', description))}")


if __name__ == "__main__":
    sys.exit(main())
