"""Closed-loop episodes of an agent and of random actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel import load
from worldmodel.measure.environments import make_env
from worldmodel.measure.rollouts import RolloutLog, run_agent, run_random
from worldmodel.measure.tasks import sample_tasks

PUSHT = "worldmodel/PushT-v0"


def test_every_episode_starts_at_its_task_and_uses_the_whole_budget(
    checkpoint: Path, pusht: Any
) -> None:
    env = make_env(PUSHT, {})
    agent = load(checkpoint, samples=4, iterations=1)
    some = sample_tasks(pusht, 3, 0, 5)
    paths = run_agent(agent, [pusht, env], some, 10, seed=1)
    env.close()
    assert [path.shape for path in paths] == [(11, 10)] * 3
    for path, task in zip(paths, some, strict=True):
        np.testing.assert_allclose(path[0], task.start_state, atol=1e-9)
        assert (path[-1][:2] != path[0][:2]).any()


def test_a_variation_reaches_the_camera_the_goal_image_and_the_floor(
    pusht: Any,
) -> None:
    class Spy:
        """Records observations and returns zero actions."""

        stop_reasons, intervened, last_plan = ("rest",), torch.tensor([True]), None
        alarmed = torch.tensor([False])

        def reset(self, goals: Any, seed: int, steps: int) -> None:
            self.goals, self.steps = goals, steps

        def act(self, obs: Any) -> Any:
            self.seen = obs["pixels"]
            return np.zeros((len(self.seen), 2), np.float32)

    some, spy = sample_tasks(pusht, 1, 0, 5), Spy()
    corner = (0, slice(0, 8), slice(0, 8))
    run_agent(spy, [pusht], some, 2)  # type: ignore[arg-type]
    usual = spy.seen[corner]
    watch = RolloutLog()
    run_agent(spy, [pusht], some, 2, 0, ("background",), watch)  # type: ignore[arg-type]
    assert spy.steps == 2
    np.testing.assert_array_equal(watch.stopped + watch.intervened, np.ones((2, 2)))
    assert (spy.seen[corner] != usual).all()
    np.testing.assert_array_equal(spy.goals[corner], spy.seen[corner])

    def floor(variation: Any) -> Any:
        tasks = sample_tasks(pusht, 6, 0, 25)
        return np.stack(run_random(pusht, tasks, 50, 0, variation))

    assert (floor(()) == floor(("light",))).all()
    assert (floor(()) != floor(("friction",))).any()
