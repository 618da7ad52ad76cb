"""Speed of plans, the encoder, training and environments, to compare commits.

    pip install '.[bench]' && pytest -n 0 tests/bench/bench_speed.py

`--benchmark-save before` and `--benchmark-compare` compare two commits. For tables with the
machine's ceiling, run `python -m worldmodel.studies bench`.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import planners
from envs.exploration import explorer
from planners import Budget
from worldmodel.control.config import AgentConfig, make_planner
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.studies.bench_parts import placed
from worldmodel.studies.bench_training import rehearse

GUARDRAIL = "no_go:disc=0.3:0.3:0.05"
ENVS: list[tuple[str, dict[str, Any]]] = [
    ("PushT", {}),
    ("Maze", {"layout": "U"}),
    ("Maze", {"layout": "medium"}),
    ("Maze", {"layout": "random"}),
    ("GranularChips", {}),
]
BUNDLED = ("pusht", "pusht-fast", "maze", "chips")


@pytest.mark.parametrize("name", planners.PLANNERS)
@pytest.mark.parametrize("checkpoint", BUNDLED)
def bench_plan(benchmark: Any, checkpoint: str, name: str) -> None:
    agent = placed(load_checkpoint(checkpoint), make_planner(name))
    problem = agent.problem()
    benchmark(lambda: agent.planner.plan(problem, agent.budget, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("guardrails", [(), (GUARDRAIL,)], ids=["free", "guarded"])
def bench_full_size(benchmark: Any, guardrails: tuple[str, ...]) -> None:
    settings = AgentConfig(horizon=5, guardrails=guardrails)
    agent = placed(load_checkpoint("pusht"), make_planner("cem"), settings)
    problem, budget = agent.problem(), Budget(samples=300, iterations=10)
    benchmark(lambda: agent.planner.plan(problem, budget, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("batch", [1, 64])
def bench_encode(benchmark: Any, batch: int) -> None:
    _, encoder, info = load_checkpoint("pusht")
    pixels = np.zeros((batch, info.image_size, info.image_size, 3), np.uint8)
    benchmark(lambda: encoder.encode(pixels))


@pytest.mark.parametrize("checkpoint", ["pusht", "maze", "chips"])
def bench_train_step(benchmark: Any, checkpoint: str) -> None:
    _, encoder, info = load_checkpoint(checkpoint)
    _, loop = rehearse(info, encoder, torch.device("cpu"))
    benchmark(loop.update)


@pytest.mark.parametrize(("name", "kwargs"), ENVS)
def bench_step(benchmark: Any, name: str, kwargs: dict[str, Any]) -> None:
    """A step of exploration, drawn at 112 pixels."""
    env = gym.make(f"envs:worldmodel/{name}-v0", disable_env_checker=True, **kwargs)
    policy = explorer(env, "explore", np.random.default_rng(0))
    seen = list(env.reset(seed=0))

    def step() -> None:
        obs, _, terminated, truncated, info = env.step(policy(*seen))
        seen[:] = env.reset() if terminated or truncated else (obs, info)

    benchmark(step)
    env.close()
