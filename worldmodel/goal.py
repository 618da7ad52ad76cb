"""Make a goal image from a held-out task.

    python -m worldmodel.goal --env worldmodel/PushT-v0 --seed 3 --out goal.png

writes ``goal.png`` and, beside it, ``goal.json`` with the start and goal states.
"""

from __future__ import annotations

import sys

from worldmodel.cli import parse_config, run
from worldmodel.measure.goals import GoalConfig, make_goal


@run
def main(argv: list[str] | None = None) -> None:
    """Write one goal image and its states."""
    config = parse_config(GoalConfig, argv, "worldmodel.goal", "Make a goal image.")
    make_goal(config)
    print(f"wrote {config.out} and {config.out.with_suffix('.json')}")


if __name__ == "__main__":
    sys.exit(main())
