"""The bundled checkpoints in closed loop, on held-out tasks with fixed seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import worldmodel
from envs.task import task_of
from worldmodel.measure.environments import make_env
from worldmodel.measure.tasks import sample_tasks

Array = NDArray[Any]
PUSHT, MAZE, CHIPS = (f"worldmodel/{name}-v0" for name in ("PushT", "Maze", "GranularChips"))
SEED = 11


def run(
    checkpoint: str,
    env_id: str,
    env_kwargs: dict[str, Any],
    count: int,
    steps: int,
    goal_offset: int = 25,
    guardrails: tuple[str, ...] = (),
) -> tuple[Any, Array, Array]:
    """Act on `count` tasks at once.

    Returns: the environment's Task, states ``[count, steps + 1, Ds]`` and goals ``[count, Ds]``.
    """
    agent = worldmodel.load(checkpoint, device="cpu", seed=SEED, guardrails=guardrails)
    envs = [make_env(env_id, env_kwargs, agent.info.image_size) for _ in range(count)]
    drawn = sample_tasks(envs[0], count, SEED, goal_offset)
    starts = [
        env.reset(seed=each.env_seed, options={"state": each.start_state})
        for env, each in zip(envs, drawn, strict=True)
    ]
    tasks = [task_of(env) for env in envs]
    goals = np.stack([each.goal_state for each in drawn])
    images = [task.render_state(goal) for task, goal in zip(tasks, goals, strict=True)]
    agent.reset(np.stack(images), steps=steps)
    observed, states = [obs for obs, _ in starts], [[info["state"] for _, info in starts]]
    for _ in range(steps):
        batch = {key: np.stack([obs[key] for obs in observed]) for key in ("pixels", "proprio")}
        done = [env.step(action) for env, action in zip(envs, agent.act(batch), strict=True)]
        observed = [obs for obs, *_ in done]
        states.append([info["state"] for *_, info in done])
    for env in envs:
        env.close()
    return tasks[0], np.stack(states, axis=1), goals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint", "env_id", "env_kwargs", "steps", "at_least"),
    [
        pytest.param("pusht", PUSHT, {}, 40, 4, id="pusht"),
        pytest.param("pusht-fast", PUSHT, {}, 40, 4, id="pusht-fast"),
        pytest.param("maze", MAZE, {"layout": "U"}, 40, 5, id="maze-U"),
        pytest.param("maze", MAZE, {"layout": "medium"}, 60, 5, id="maze-medium"),
    ],
)
def test_most_goals_are_reached(
    checkpoint: str, env_id: str, env_kwargs: dict[str, Any], steps: int, at_least: int
) -> None:
    """Of 6 tasks. Goals of Push-T are 25 steps ahead."""
    task, states, goals = run(checkpoint, env_id, env_kwargs, 6, steps)
    reached = [
        any(task.success(state, goal) for state in path[1:])
        for path, goal in zip(states, goals, strict=True)
    ]
    assert sum(reached) >= at_least, reached


@pytest.mark.slow
def test_chips_come_closer_to_the_goal() -> None:
    task, states, goals = run("chips", CHIPS, {}, 4, 6)
    pairs = list(zip(states, goals, strict=True))
    before = np.array([task.chamfer(path[0], goal) for path, goal in pairs])
    after = np.array([task.chamfer(path[-1], goal) for path, goal in pairs])
    assert after.mean() < 0.75 * before.mean(), (before, after)


@pytest.mark.slow
def test_rim_guardrail_loses_no_chip() -> None:
    rules = ("action_points:start=0,end=0.05",)
    _, states, _ = run("chips-open", CHIPS, {"rim": False}, 6, 8, guardrails=rules)
    assert (states[:, -1, 2:] >= 0).all()
