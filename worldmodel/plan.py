"""Plan towards a goal image.

    plan --env worldmodel/PushT-v0 --goal goal.png
    plan --image now.png --goal goal.png --checkpoint pusht

The first acts in an environment in closed loop and writes ``plan.gif`` and ``plan.mp4`` (camera
images, the goal, what the plans imagine, the latent distance), ``report.json`` and ``cost.png``;
with ``--explain true`` also ``explain.gif``, with ``--rerun FILE.rrd`` a recording for Rerun. The
second makes one plan from one image and prints its actions as JSON. Goal images come from
``python -m worldmodel.goal`` or from the camera.
"""

from __future__ import annotations

import json
import sys

from worldmodel.cli import parse_config, run
from worldmodel.measure.planning import (
    PlanConfig,
    plan_from_image,
    run_closed_loop,
    summary,
    write_files,
)


@run
def main(argv: list[str] | None = None) -> int | None:
    """Act in an environment, or make one plan from an image."""
    config = parse_config(PlanConfig, argv, "worldmodel.plan", "Plan towards a goal image.")
    if config.image is not None:
        print(json.dumps(plan_from_image(config), allow_nan=False))
        return 0
    episode = run_closed_loop(config)
    write_files(config, episode)
    print(summary(config, episode))
    if episode.interrupted:
        raise KeyboardInterrupt
    return 0


if __name__ == "__main__":
    sys.exit(main())
