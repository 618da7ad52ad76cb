"""How planning goes: what a planner tries, iteration by iteration, and how that converges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from planners import Evaluation, Problem, Trajectory, rank, score
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


class Tried(NamedTuple):
    """One batch of candidates, the best first: where they would lead the robot, metres
    ``[S, n, 2]``, what they cost ``[S]``, whether they keep the guardrails ``[S]``, and what the
    best of them looks like in the end, in latents ``[P, D]``."""

    paths: Array
    cost: Array
    feasible: Array
    best: Tensor


class ExplainingAgent(Agent):
    """An agent that keeps what its planner tried for the latest plan, of the first episode."""

    tried: list[Tried]

    def _replan(self, asked: float) -> None:
        self.tried = []
        super()._replan(asked)

    def problem(self, warm_start: Tensor | None = None) -> Problem:
        problem = super().problem(warm_start)

        def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
            found = problem.cost(trajectory, actions)
            if actions.shape[1] > 1:  # one alone is no search
                self.tried.append(self._note(problem, trajectory, actions, found))
            return found

        return dataclasses.replace(problem, cost=cost)

    @torch.no_grad()
    def _note(
        self, problem: Problem, trajectory: Trajectory, actions: Tensor, cost: Tensor
    ) -> Tried:
        found = [guardrail(trajectory, actions) for guardrail in problem.guardrails]
        violations = torch.stack(found, -1) if found else cost.new_zeros(*actions.shape[:3], 0)
        candidates = score(actions, Evaluation(trajectory, cost, violations))
        order = rank(candidates)[0]
        return Tried(
            self._paths(trajectory, actions)[order].float().cpu().numpy(),
            candidates.cost[0, order].float().cpu().numpy(),
            (candidates.violation[0, order] <= 0).cpu().numpy(),
            trajectory.z[0, order[0], -1].float().cpu(),
        )

    def _paths(self, trajectory: Trajectory, actions: Tensor) -> Tensor:
        """Where the robot goes ``[S, n, 2]``: the first stroke where actions are strokes, none
        where it is not known."""
        if len(self.model.action_low) == 4:
            return self.primitive(actions)[0, :, 0, :4].unflatten(-1, (2, 2))
        where = self.senses.find(("x", "y"), whole=False)
        return actions[0, :, :0, :2] if where is None else where(trajectory)[0]


def converging(
    frame: Array,
    plan: Sequence[tuple[Tried, Array | None]],
    in_image: Callable[[Array], Array],
    title: str,
    regions: Sequence[tuple[Array, bool]] = (),
) -> list[Image.Image]:
    """One picture per batch of candidates of a plan: where they lead over what the camera sees,
    what the best of them looks like in the end (an image ``[H, W, 3]``, or None), and all costs."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = [to_hex(colour) for colour in colormaps["cividis"](np.arange(256))]  # dark: the best
    chart = Chart(lambda axes: _draw_costs(axes, [tried for tried, _ in plan]))
    pictures = []
    for number, (tried, imagined) in enumerate(plan):
        picture = Image.new("RGB", (2 * SIDE, SIDE + BAR + CHART), "white")
        picture.paste(scaled(frame, SIDE), (0, 0))
        for region, shaded in regions:
            draw_region(picture, region, shaded)
        draw = ImageDraw.Draw(picture)
        last = len(tried.paths) - 1
        for place in range(last, -1, -1):  # the best one on top
            path = SIDE * np.clip(in_image(tried.paths[place]), 0, 1)
            if len(path) > 1:
                colour = shades[255 * place // max(1, last)] if tried.feasible[place] else WARNING
                draw.line([tuple(p) for p in path.tolist()], fill=colour, width=1 if place else 4)
        if imagined is not None:
            picture.paste(scaled(imagined, SIDE), (SIDE, 0))
        else:
            draw.rectangle((SIDE, 0, 2 * SIDE, SIDE), fill=(245, 245, 245))
            draw.text((SIDE + 8, 8), "no decoder: nothing to show", fill=TEXT, font=FONT)
        draw.line((SIDE, 0, SIDE, SIDE), fill="white", width=3)
        text = f"{title}, iteration {number + 1} of {len(plan)}"
        draw.text((6, SIDE + 6), text, fill=TEXT, font=FONT)
        draw.text((SIDE + 6, SIDE + 6), "where the best one ends, imagined", fill=TEXT, font=FONT)
        chart.paste(picture, number + 1)
        pictures.append(picture)
    return pictures


def _draw_costs(axes: Any, batches: Sequence[Tried]) -> None:
    """What candidates cost in each iteration."""
    for number, tried in enumerate(batches, 1):
        finite = np.isfinite(tried.cost)
        for keeps, colour in ((True, ALARM), (False, WARNING)):
            costs = tried.cost[finite & (tried.feasible == keeps)]
            axes.plot(np.full(len(costs), number), costs, ".", ms=2, alpha=0.4, color=colour)
    best = [tried.cost[tried.feasible].min(initial=np.inf) for tried in batches]
    axes.plot(range(1, len(best) + 1), np.minimum.accumulate(best), "k-", lw=1)
    axes.set_xlabel("iteration; line: the best so far; orange: breaks a guardrail", fontsize=8)
    axes.set_ylabel("cost", fontsize=8)
    axes.set_xticks(range(1, len(batches) + 1))
    axes.set_yscale("log")
