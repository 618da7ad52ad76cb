"""The candidates of a plan, iteration by iteration, and how the search converges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from envs.task import task_of
from planners import Budget, Evaluation, Plan, Problem, Trajectory, rank, score
from worldmodel.agent import Agent
from worldmodel.measure.film import (
    ALARM,
    BAR,
    CHART,
    FONT,
    SIDE,
    TEXT,
    WARNING,
    Chart,
    draw_region,
    scaled,
)

Array = NDArray[Any]


class SearchBatch(NamedTuple):
    """One batch of candidates, the best first.

    Attributes:
        paths: where each leads the robot, metres ``[S, n, 2]``.
        cost: ``[S]``.
        feasible: whether each satisfies the guardrails, bool ``[S]``.
        best: predicted final latents of the best one ``[P, D]``.
    """

    paths: Array
    cost: Array
    feasible: Array
    best: Tensor


class RecordingPlanner:
    """The agent's planner, which also records the candidates of the latest plan of its first
    episode.

    Attributes:
        recorded: one entry for each batch of candidates.
    """

    name: ClassVar[str] = "recording"
    default_budget: ClassVar[Budget] = Budget(1, 1)

    def __init__(self, agent: Agent, env: gym.Env[Any, Any]) -> None:
        self.agent, self.planner, self.task = agent, agent.planner, task_of(env)
        self.recorded: list[SearchBatch] = []

    def plan(self, problem: Problem, budget: Budget, generator: torch.Generator) -> Plan:
        """See `planners.Planner`."""
        self.recorded = []

        def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
            costs = problem.cost(trajectory, actions)
            if actions.shape[1] > 1:  # one alone is a check, not a search
                self.recorded.append(self._record(problem, trajectory, actions, costs))
            return costs

        return self.planner.plan(dataclasses.replace(problem, cost=cost), budget, generator)

    @torch.no_grad()
    def _record(
        self, problem: Problem, trajectory: Trajectory, actions: Tensor, cost: Tensor
    ) -> SearchBatch:
        found = [guardrail(trajectory, actions) for guardrail in problem.guardrails]
        violations = torch.stack(found, -1) if found else cost.new_zeros(*actions.shape[:3], 0)
        scored = score(actions, Evaluation(trajectory, cost, violations))
        order = rank(scored)[0]
        return SearchBatch(
            self._paths(trajectory, actions)[order.cpu().numpy()],
            scored.cost[0, order].float().cpu().numpy(),
            (scored.violation[0, order] <= 0).cpu().numpy(),
            trajectory.z[0, order[0], -1].float().cpu(),
        )

    def _paths(self, trajectory: Trajectory, actions: Tensor) -> Array:
        """Where candidates lead the robot ``[S, n, 2]``: along the first action where actions are
        motions of their own, along imagined positions otherwise; n is 0 where neither is known."""
        size = len(self.agent.model.action_low)
        first = self.agent.layout.primitive(actions)[0, :, 0, :size].float().cpu().numpy()
        points = self.task.action_path(first)
        if points is not None:
            return points
        position = self.agent.senses.find(("x", "y"), whole=False)
        if position is None:
            return np.zeros((len(first), 0, 2))
        return position(trajectory)[0].float().cpu().numpy()


def converging(
    frame: Array,
    plan: Sequence[tuple[SearchBatch, Array | None]],
    in_image: Callable[[Array], Array | None],
    title: str,
    regions: Sequence[tuple[Array, bool]] = (),
) -> list[Image.Image]:
    """One picture for each batch of candidates of a plan: their paths over the camera image, the
    predicted end of the best one, and all costs.

    Args:
        frame: camera image ``[H, W, 3]``.
        plan: batches, and the decoded end of the best candidate, ``[H, W, 3]`` or None.
        in_image: of the task.
        title: above the count of iterations.
        regions: of guardrails.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = [to_hex(colour) for colour in colormaps["cividis"](np.arange(256))]  # dark: the best
    chart = Chart(lambda axes: _draw_costs(axes, [batch for batch, _ in plan]))
    pictures = []
    for number, (batch, imagined) in enumerate(plan):
        picture = Image.new("RGB", (2 * SIDE, SIDE + BAR + CHART), "white")
        picture.paste(scaled(frame, SIDE), (0, 0))
        for region, shaded in regions:
            draw_region(picture, region, shaded)
        draw = ImageDraw.Draw(picture)
        last = len(batch.paths) - 1
        for place in range(last, -1, -1):  # the best one on top
            points = in_image(batch.paths[place])
            if points is not None and len(points) > 1:
                path = SIDE * np.clip(points, 0, 1)
                colour = shades[255 * place // max(1, last)] if batch.feasible[place] else WARNING
                draw.line([tuple(p) for p in path.tolist()], fill=colour, width=1 if place else 4)
        if imagined is not None:
            picture.paste(scaled(imagined, SIDE), (SIDE, 0))
        else:
            draw.rectangle((SIDE, 0, 2 * SIDE, SIDE), fill=(245, 245, 245))
            draw.text((SIDE + 8, 8), "no decoder", fill=TEXT, font=FONT)
        draw.line((SIDE, 0, SIDE, SIDE), fill="white", width=3)
        text = f"{title}, iteration {number + 1} of {len(plan)}"
        draw.text((6, SIDE + 6), text, fill=TEXT, font=FONT)
        draw.text((SIDE + 6, SIDE + 6), "predicted end of the best", fill=TEXT, font=FONT)
        chart.paste(picture, number + 1)
        pictures.append(picture)
    return pictures


def _draw_costs(axes: Any, batches: Sequence[SearchBatch]) -> None:
    """The costs of candidates in each iteration."""
    for number, batch in enumerate(batches, 1):
        finite = np.isfinite(batch.cost)
        for keeps, colour in ((True, ALARM), (False, WARNING)):
            costs = batch.cost[finite & (batch.feasible == keeps)]
            axes.plot(np.full(len(costs), number), costs, ".", ms=2, alpha=0.4, color=colour)
    best = [batch.cost[batch.feasible].min(initial=np.inf) for batch in batches]
    axes.plot(range(1, len(best) + 1), np.minimum.accumulate(best), "k-", lw=1)
    axes.set_xlabel("iteration; line: the best so far; orange: infeasible", fontsize=8)
    axes.set_ylabel("cost", fontsize=8)
    axes.set_xticks(range(1, len(batches) + 1))
    axes.set_yscale("log")
