"""Use a planner without a network: a point mass, a pillar in its way, and known dynamics.

python examples/planner_alone.py
"""

from __future__ import annotations

import torch
from torch import Tensor

import planners
from planners import Problem, Trajectory
from planners.guardrails import Disc, no_go

DT, HORIZON, EPISODES = 0.1, 12, 1
START, GOAL = torch.zeros(2), torch.tensor([1.0, 0.5])  # metres
PILLAR = Disc(centre=(0.5, 0.25), radius=0.2)


def rollout(actions: Tensor) -> Trajectory:
    """Velocities [E, S, T, 2] in m/s to positions, as one token of two channels."""
    return Trajectory(z=(START + DT * actions.cumsum(-2)).unsqueeze(-2))


def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
    """Squared distance to the goal at the end, [E, S]."""
    return (trajectory.z[:, :, -1, 0] - GOAL).square().sum(-1)


def where(trajectory: Trajectory) -> Tensor:
    """Positions [E, S, T, 2]."""
    return trajectory.z[..., 0, :]


problem = Problem(
    rollout=rollout,
    cost=cost,
    low=torch.full((2,), -1.0),
    high=torch.full((2,), 1.0),
    horizon=HORIZON,
    episodes=EPISODES,
    guardrails=(no_go(PILLAR, where, START.expand(EPISODES, 2), name="pillar"),),
)
for name in planners.PLANNERS:
    planner = planners.make(name)
    plan = planner.plan(problem, planner.default_budget, torch.Generator().manual_seed(0))
    x, y = plan.trajectory.z[0, -1, 0].tolist()
    clear = -plan.violations.max().item()
    print(
        f"{name:<9} ends at ({x:.3f}, {y:.3f}) m, {clear:.3f} m clear of the pillar, "
        f"feasible {plan.feasible.item()}, {plan.timings['total']:.0f} ms"
    )
