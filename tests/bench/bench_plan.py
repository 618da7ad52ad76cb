"""Milliseconds for one replan of one episode: 300 samples, 10 iterations, horizon 5.

    python tests/bench/bench_plan.py [--checkpoint pusht] [--repeats 20]

Every planner plans the same problem with the bundled checkpoint, encoding not included: it happens
once per replan and is shown on its own line. The gradient planner works with few samples and
backpropagates, so the same budget costs it far more; it is timed with its own default as well.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch

import envs  # noqa: F401  (registers the environments)
import planners
import worldmodel
from planners import Budget

BUDGET = Budget(samples=300, iterations=10)
HORIZON = 5


def milliseconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and p99 over `repeats` calls, after two to warm up."""
    for _ in range(2):
        call()
    spent = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(spent)), float(np.percentile(spent, 99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--checkpoint", default="pusht", help="bundled name or folder")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()

    agent = worldmodel.load(arguments.checkpoint, horizon=HORIZON)
    env = gym.make(agent.info.env_id, **agent.info.env_kwargs, image_size=agent.info.image_size)
    obs, info = env.reset(seed=0)
    agent.reset(env.unwrapped.render_state(info["goal_state"]))  # type: ignore[attr-defined]
    agent.act(obs)
    env.close()

    size = sum(p.numel() for p in agent.model.parameters()) / 1e6
    print(
        f"{arguments.checkpoint}: {size:.2f} M parameters, {torch.get_num_threads()} threads, "
        f"horizon {HORIZON}, 1 episode, {arguments.repeats} plans each"
    )
    print(f"{'':<10} {'samples':>7} {'iterations':>10} {'median ms':>10} {'p99 ms':>8}")
    pixels = obs["pixels"][None]
    median, p99 = milliseconds(lambda: agent.encoder.encode(pixels), arguments.repeats)
    print(f"{'encode':<10} {'':>7} {'':>10} {median:>10.1f} {p99:>8.1f}", flush=True)
    for name in planners.PLANNERS:
        planner = planners.make(name)
        for budget in dict.fromkeys((BUDGET, planner.default_budget)):
            if name == "gradient" and budget == BUDGET:
                continue  # minutes: 300 samples through the model and back
            problem = agent.problem()

            generator = torch.Generator().manual_seed(0)
            plan = functools.partial(planner.plan, problem, budget, generator)
            median, p99 = milliseconds(plan, arguments.repeats)
            sizes = f"{name:<10} {budget.samples:>7} {budget.iterations:>10}"
            print(f"{sizes} {median:>10.0f} {p99:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
