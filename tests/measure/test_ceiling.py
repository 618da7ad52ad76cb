"""Planning on the true simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from planners import Budget
from worldmodel import load
from worldmodel.agent import Agent
from worldmodel.control.config import AgentConfig, make_planner
from worldmodel.measure import outcomes as outcome
from worldmodel.measure import tasks
from worldmodel.measure.ceiling import (
    SimulatorPlanner,
    rank_correlation,
    run_ceiling,
)
from worldmodel.measure.tasks import sample_tasks
from worldmodel.models.checkpoint import load_checkpoint


def test_the_ceiling_reaches_what_can_be_reached(checkpoint: Path, pusht: Any) -> None:
    agent: Any = Agent(
        *load_checkpoint(checkpoint),
        planner=make_planner("cem"),
        config=AgentConfig(horizon=3),
    )
    some = sample_tasks(pusht, 2, 0, 8)
    planner, budget = make_planner("cem"), Budget(24, 2)
    paths = run_ceiling(agent, planner, budget, pusht, some, 15, 0)
    assert all(path.shape == (16, 10) for path in paths)
    for path, task in zip(paths, some, strict=True):
        apart = outcome.task_distance(pusht, path, task.goal_state)
        assert apart.min() < 0.5 * apart[0]


def test_an_agent_on_the_simulator_sees_what_its_plans_would_show(
    checkpoint: Path, pusht: Any
) -> None:
    parts = load_checkpoint(checkpoint)
    config = AgentConfig(horizon=2, samples=3, iterations=1)
    agent = Agent(*parts, make_planner("cem"), config)
    agent.planner = SimulatorPlanner(agent.planner, agent, pusht)
    task = sample_tasks(pusht, 1, 0, 8)[0]
    obs, _ = tasks.begin(pusht, task, ())
    agent.reset(tasks.render(pusht, task.goal_state))
    agent.act(obs)
    plan = agent.last_plan
    assert plan is not None
    path = pusht.unwrapped.physics(task.start_state, agent.sequence(plan.actions)[0].numpy())
    for step, z in enumerate(plan.trajectory.z[0], 1):
        pixels = tasks.render(pusht, path[step * agent.frameskip])
        torch.testing.assert_close(z, agent.inference.encode(pixels[None])[0], atol=0.02, rtol=0.02)
    np.testing.assert_allclose(plan.trajectory.proprio[0, 0, :2], path[agent.frameskip, :2])


@pytest.mark.slow
def test_a_trained_model_ranks_plans_as_the_simulator_does(checkpoint: Path, pusht: Any) -> None:
    some = sample_tasks(pusht, 4, 0, 25)

    def alike(name: str | Path) -> np.ndarray:
        return rank_correlation(load(name), pusht, some, 0)

    trained, untrained = alike("pusht"), alike(checkpoint)
    assert trained.shape == (4,) and np.abs(untrained).max() < 0.9
    assert trained.mean() > max(0.5, untrained.mean() + 0.2)
