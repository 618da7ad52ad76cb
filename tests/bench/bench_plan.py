"""Milliseconds for one replan of one episode: 300 samples, 10 iterations, horizon 5.

    python tests/bench/bench_plan.py [--checkpoint pusht] [--repeats 20] [--guardrail no_go:...]

Every planner plans the same problem with the bundled checkpoint, encoding not included: it happens
once per replan and is shown on its own line. The gradient planner works with few samples and
backpropagates, so the same budget costs it far more; it is timed with its own default as well. Each
plan is made once without guardrails and once with those given, in turn: the last column is what
they cost.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence

import gymnasium as gym
import numpy as np
import torch

import envs  # noqa: F401  (registers the environments)
import planners
import worldmodel
from planners import Budget

BUDGET = Budget(samples=300, iterations=10)
HORIZON = 5


def milliseconds(calls: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Of `repeats` calls of each, in turn, after two to warm up."""
    spent: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 2):
        for call, taken in zip(calls, spent, strict=True):
            begun = time.perf_counter()
            call()
            if repeat >= 2:
                taken.append(1e3 * (time.perf_counter() - begun))
    return spent


def cells(spent: list[float]) -> str:
    """Median and p99."""
    return f"{np.median(spent):>10.1f} {np.percentile(spent, 99):>8.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--checkpoint", default="pusht", help="bundled name or folder")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--guardrail", action="append", default=[], help="may be given again")
    arguments = parser.parse_args()

    rules = ((), tuple(arguments.guardrail)) if arguments.guardrail else ((),)
    agents = [
        worldmodel.load(arguments.checkpoint, horizon=HORIZON, guardrails=some) for some in rules
    ]
    agent = agents[0]
    env = gym.make(agent.info.env_id, **agent.info.env_kwargs, image_size=agent.info.image_size)
    obs, info = env.reset(seed=0)
    for each in agents:
        each.reset(env.unwrapped.render_state(info["goal_state"]))  # type: ignore[attr-defined]
        each.act(obs)
    env.close()

    size = sum(p.numel() for p in agent.model.parameters()) / 1e6
    print(
        f"{arguments.checkpoint}: {size:.2f} M parameters, {torch.get_num_threads()} threads, "
        f"horizon {HORIZON}, 1 episode, {arguments.repeats} plans each"
    )
    guarded = f" {'guarded':>10} {'p99 ms':>8} {'cost':>7}" if arguments.guardrail else ""
    print(f"{'':<10} {'samples':>7} {'iterations':>10} {'median ms':>10} {'p99 ms':>8}{guarded}")
    pixels = obs["pixels"][None]
    (spent,) = milliseconds([lambda: agent.encoder.encode(pixels)], arguments.repeats)
    print(f"{'encode':<10} {'':>7} {'':>10} {cells(spent)}", flush=True)
    for name in planners.PLANNERS:
        planner = planners.make(name)
        for budget in dict.fromkeys((BUDGET, planner.default_budget)):
            if name == "gradient" and budget == BUDGET:
                continue  # minutes: 300 samples through the model and back
            plans = [
                functools.partial(
                    planner.plan, each.problem(), budget, torch.Generator().manual_seed(0)
                )
                for each in agents
            ]
            taken = milliseconds(plans, arguments.repeats)
            line = f"{name:<10} {budget.samples:>7} {budget.iterations:>10} "
            line += " ".join(map(cells, taken))
            if len(taken) > 1:  # of each pair, so that what else the machine does cancels
                line += f" {np.median(np.divide(taken[1], taken[0])) - 1:>+7.1%}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
