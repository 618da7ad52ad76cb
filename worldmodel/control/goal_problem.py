"""The planning problem of reaching a goal image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from planners import Problem, Trajectory
from worldmodel.control.action_layout import ActionLayout
from worldmodel.control.guardrails import Rule, action_limits, guardrails
from worldmodel.control.inference import Inference
from worldmodel.control.objective import Objective
from worldmodel.control.perception import Perception
from worldmodel.control.senses import Senses


@dataclass(frozen=True, eq=False)
class GoalProblems:
    """Builds planning problems towards goals.

    Attributes:
        inference: the world model.
        objective: what a plan costs.
        layout: how plans become actions.
        readable: share of each number of proprio that the model reads off one image, ``[Dp]``.
        rules: guardrails.
        senses: how they read quantities from trajectories.
    """

    inference: Inference
    objective: Objective
    layout: ActionLayout
    readable: tuple[float, ...]
    rules: Sequence[Rule]
    senses: Senses

    def build(
        self,
        seen: Perception,
        steps_left: int | None,
        warm_start: Tensor | None,
        max_memory_mb: float,
    ) -> Problem:
        """The problem after the latest observation.

        Args:
            seen: goals, present and past.
            steps_left: environment steps until the episode ends, or None.
            warm_start: a first guess, or None.
            max_memory_mb: megabytes that rollouts may take.
        """
        goal = seen.goal
        assert goal is not None and goal.proprio is not None
        model, device = self.inference.model, self.inference.device
        goal_z, goal_proprio = goal.z[:, None, None], goal.proprio[:, None, None]
        context = seen.memory.context()
        ends = None if steps_left is None else math.ceil(steps_left / self.layout.frameskip)
        # The goal of a number is read off the goal image: one that images show less than half of
        # has no weight.
        readable = (2 * torch.tensor(self.readable) - 1).clamp(min=0)
        weight = self.objective.proprio_weight(seen.distances)[:, None, None, None]
        readable = (weight * readable).to(device)  # [N, 1, 1, Dp]

        def rollout(actions: Tensor) -> Trajectory:
            return self.inference.rollout(context, self.layout.primitive(actions))

        def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
            assert trajectory.proprio is not None
            distance = model.distance(trajectory.z, goal_z)  # [N, S, T]
            deviation = (trajectory.proprio - goal_proprio) / model.proprio_std
            distance = distance + (readable * deviation.square()).sum(-1)
            costs = self.objective.cost(distance, ends)
            return costs.amin(0, keepdim=True) if seen.any_goal else costs

        horizon, episodes = self.layout.horizon, seen.episodes
        return Problem(
            rollout=rollout,
            cost=cost,
            low=self.layout.planned(self.layout.low),
            high=self.layout.planned(self.layout.high),
            horizon=horizon,
            episodes=episodes,
            guardrails=guardrails(
                self.rules, self.senses, Trajectory(context.z[:, -1], context.proprio[:, -1])
            ),
            warm_start=warm_start,
            hold=seen.planned_hold,
            limits=action_limits(self.rules, seen.memory.last_action),
            choices=self.layout.planned_choices,
            chunk=self.inference.samples_in(max_memory_mb, episodes, horizon),
        )
