"""Use a planner without a network: a point mass, a wall it must not enter, and known dynamics.

python examples/planner_alone.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import planners
from planners import Problem, Trajectory

DT, HORIZON, EPISODES = 0.1, 12, 1
START, GOAL, WALL = torch.zeros(2), torch.tensor([1.0, 0.5]), 0.8  # metres; stay below x = WALL


def rollout(actions: Tensor) -> Trajectory:
    """Velocities [E, S, T, 2] in m/s to positions, as one token of two channels."""
    return Trajectory(z=(START + DT * actions.cumsum(-2)).unsqueeze(-2))


def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
    """Squared distance to the goal at the end, [E, S]."""
    return (trajectory.z[:, :, -1, 0] - GOAL).square().sum(-1)


@dataclass(frozen=True)
class Wall:
    """Hard, whatever the cost says: x < WALL at every step."""

    name: str = "wall"
    unit: str = "m"
    tier: int = 1

    def __call__(self, trajectory: Trajectory, actions: Tensor) -> Tensor:
        return trajectory.z[..., 0, 0] - WALL


problem = Problem(
    rollout=rollout,
    cost=cost,
    low=torch.full((2,), -1.0),
    high=torch.full((2,), 1.0),
    horizon=HORIZON,
    episodes=EPISODES,
    guardrails=(Wall(),),
)
for name in planners.PLANNERS:
    planner = planners.make(name)
    plan = planner.plan(problem, planner.default_budget, torch.Generator().manual_seed(0))
    x, y = plan.trajectory.z[0, -1, 0].tolist()
    print(
        f"{name:<9} ends at ({x:.3f}, {y:.3f}) m, feasible {plan.feasible.item()}, "
        f"{plan.timings['total']:.0f} ms"
    )
