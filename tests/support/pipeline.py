"""The commands of the whole chain, from data to an evaluation, as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TINY = ["--model.width", "32", "--model.depth", "1", "--model.heads", "2", "--model.dim", "8"]
SEARCH = ["--agent.samples", "8", "--agent.iterations", "2", "--agent.horizon", "2"]


def command(folder: Path, name: str, *arguments: Any, timeout: float = 120) -> str:
    """Run ``python -m worldmodel.NAME`` in `folder`, whose modules it can import; its output."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", f"worldmodel.{name}", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"worldmodel.{name}: {done.stderr[-2000:]}"
    return done.stdout


def run_pipeline(
    folder: Path,
    env_id: str,
    *,
    frameskip: int = 2,
    view: Sequence[str] = (),
    success: str = "",
    hold: str = "zero",
) -> dict[str, Any]:
    """Collect, train, make a goal, plan and evaluate in `folder`; the evaluation.

    Args:
        folder: of modules, and for everything that is written.
        env_id: environment.
        frameskip: of the model.
        view: flags of collect that say how the environment is seen.
        success: what counts as one, where the environment has no task.
        hold: the hold action.
    """
    env: tuple[str, ...] = ("--env", env_id)
    collect = (*env, *view, "--episodes", 12, "--steps", 12, "--workers", 1, "--hold", hold)
    command(folder, "collect", *collect, "--image_size", 112, "--out", "data")
    train = ("--data", "data", "--encoder", "random-112", "--steps", 20, "--batch", 8)
    train += ("--held_out", 0.2, "--model.frameskip", frameskip, "--out", "run")
    command(folder, "train", *train, *TINY)
    model = ("--checkpoint", "run/checkpoint")
    env += ("--success", success) if success else ()
    command(folder, "goal", *env, *view, "--seed", 3, "--goal_offset", 6, "--out", "goal.png")
    plan = (*env, *model, "--goal", "goal.png", "--steps", 4, "--out", "plan")
    command(folder, "plan", *plan, *SEARCH)
    evaluate = (*env, *model, "--episodes", 2, "--budget_steps", 4, "--goal_offset", 6)
    evaluate += ("--ceiling.episodes", 1, "--ceiling.samples", 4, "--ceiling.iterations", 1)
    evaluate += ("--timed_plans", 1, "--batch", 2, "--out", "result.json")
    command(folder, "evaluate", *evaluate, *SEARCH)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result
