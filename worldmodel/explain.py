"""How planning goes: what a planner tries, iteration by iteration, and how that converges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from planners import Problem, Trajectory
from worldmodel.agent import Agent
from worldmodel.pictures import (
    BAR,
    CHART,
    FONT,
    SIDE,
    TEXT,
    WARNING,
    draw_region,
    scaled,
)

Array = NDArray[Any]


class Tried(NamedTuple):
    """One batch of candidates: where they would lead the robot, metres ``[S, n, 2]``, what they
    cost ``[S]``, whether they keep the guardrails ``[S]``, and what the best of those looks like
    in the end, in latents ``[P, D]``."""

    paths: Array
    cost: Array
    feasible: Array
    best: Tensor


class ExplainingAgent(Agent):
    """An agent that keeps what its planner tried for the latest plan, of the first episode."""

    tried: list[Tried]

    def _replan(self) -> None:
        self.tried = []
        super()._replan()

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
        keeps = torch.ones(actions.shape[1], dtype=torch.bool, device=actions.device)
        for guardrail in problem.guardrails:
            keeps &= (guardrail(trajectory, actions)[0] <= 0).all(-1)
        best = cost[0].where(keeps, cost[0] + cost[0].max()).argmin()
        return Tried(
            self._paths(trajectory, actions).float().cpu().numpy(),
            cost[0].float().cpu().numpy(),
            keeps.cpu().numpy(),
            trajectory.z[0, best, -1].float().cpu(),
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
    chart, place = _chart([tried for tried, _ in plan])
    pictures = []
    for number, (tried, imagined) in enumerate(plan):
        picture = Image.new("RGB", (2 * SIDE, SIDE + BAR + CHART), "white")
        picture.paste(scaled(frame, SIDE), (0, 0))
        for region, shaded in regions:
            draw_region(picture, region, shaded)
        draw = ImageDraw.Draw(picture)
        order = np.lexsort((tried.cost, ~tried.feasible))[::-1]  # the best one on top
        for place_from_worst, candidate in enumerate(order.tolist()):
            share = place_from_worst / max(1, len(order) - 1)
            colour = _colour(share) if tried.feasible[candidate] else WARNING
            path = SIDE * np.clip(in_image(tried.paths[candidate]), 0, 1)
            if len(path) > 1:
                last = candidate == order[-1]
                draw.line([tuple(p) for p in path.tolist()], fill=colour, width=4 if last else 1)
        if imagined is not None:
            picture.paste(scaled(imagined, SIDE), (SIDE, 0))
        else:
            draw.rectangle((SIDE, 0, 2 * SIDE, SIDE), fill=(245, 245, 245))
            draw.text((SIDE + 8, 8), "no decoder: nothing to show", fill=TEXT, font=FONT)
        draw.line((SIDE, 0, SIDE, SIDE), fill="white", width=3)
        text = f"{title}, iteration {number + 1} of {len(plan)}"
        draw.text((6, SIDE + 6), text, fill=TEXT, font=FONT)
        draw.text((SIDE + 6, SIDE + 6), "where the best one ends, imagined", fill=TEXT, font=FONT)
        picture.paste(chart, (0, SIDE + BAR))
        x = place(number + 1)
        draw.line((x, SIDE + BAR + 8, x, SIDE + BAR + CHART - 34), fill=TEXT, width=1)
        pictures.append(picture)
    return pictures


def _colour(share: float) -> tuple[int, int, int]:
    """From the worst (0, light) to the best (1, dark)."""
    red, green, blue, _ = matplotlib.colormaps["cividis_r"](share)
    return round(255 * red), round(255 * green), round(255 * blue)


def _chart(batches: Sequence[Tried]) -> tuple[Image.Image, Any]:
    """What candidates cost in each iteration; and where an iteration is in it, in pixels."""
    figure = Figure(figsize=(2 * SIDE / 100, CHART / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.tick_params(labelsize=8)
    for number, tried in enumerate(batches, 1):
        finite = np.isfinite(tried.cost)
        for keeps, colour in ((True, "#0072B2"), (False, "#D55E00")):
            costs = tried.cost[finite & (tried.feasible == keeps)]
            axes.plot(np.full(len(costs), number), costs, ".", ms=2, alpha=0.4, color=colour)
    best = [tried.cost[tried.feasible].min(initial=np.inf) for tried in batches]
    axes.plot(range(1, len(best) + 1), np.minimum.accumulate(best), "k-", lw=1)
    axes.set_xlabel("iteration; line: the best so far; orange: breaks a guardrail", fontsize=8)
    axes.set_ylabel("cost", fontsize=8)
    axes.set_xticks(range(1, len(batches) + 1))
    axes.set_yscale("log")
    canvas.draw()
    chart = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return chart, lambda number: float(axes.transData.transform((number, 1))[0])
