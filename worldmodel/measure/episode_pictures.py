"""What the log of an episode shows: its film, the candidates of its plans, its costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from planners import Trajectory
from worldmodel.agent import Agent
from worldmodel.control.guardrails import guardrails
from worldmodel.measure.episode import EpisodeLog
from worldmodel.measure.explanation import converging
from worldmodel.measure.film import MOST_FRAMES, Film, Imagination, as_png
from worldmodel.models.decoder import Decoder

Array = NDArray[Any]
InImage = Callable[[Array], Array | None]
"""Where points of the workspace are in the image: see `envs.task.Task.in_image`."""


def episode_film(
    agent: Agent,
    decoder: Decoder | None,
    log: EpisodeLog,
    goal: Array,
    first_success: int | None,
    regions: list[tuple[Array, bool]],
    in_image: InImage,
) -> Film:
    """The film of an episode.

    Args:
        agent: that acted.
        decoder: draws predicted latents; None leaves them out.
        log: of the episode.
        goal: uint8 ``[H, W, 3]``.
        first_success: the step in which the goal was reached, or None.
        regions: of guardrails.
        in_image: of the task.
    """
    position = agent.senses.find(("x", "y"), whole=False)
    units = _guardrail_units(agent, log) if log.clearances else set()
    plans = zip(log.plan_steps, log.imagined, log.feasible, strict=False)
    return Film(
        frames=log.frames,
        goal=goal,
        first_success=first_success,
        regions=regions,
        interventions=log.interventions,
        surprises=log.surprises,
        imagined=[
            Imagination(
                step,
                decoder.paint(expected.z),
                agent.frameskip,
                feasible,
                None if position is None else in_image(position(expected).cpu().numpy()),
            )
            for step, expected, feasible in plans
        ]
        if decoder
        else (),
        distances=list(zip(log.distance_steps, log.distances, strict=False)),
        clearances=list(zip(log.plan_steps, log.clearances, strict=False)),
        unit=units.pop() if len(units) == 1 else "",
    )


def explanation_pictures(
    decoder: Decoder | None,
    log: EpisodeLog,
    regions: list[tuple[Array, bool]],
    in_image: InImage,
) -> list[Image.Image]:
    """How the candidates of each plan converge, up to the length of an animation."""
    pictures: list[Image.Image] = []
    for step, batches in zip(log.plan_steps, log.candidates, strict=False):
        if len(pictures) + len(batches) > MOST_FRAMES:
            break
        plan = [(batch, decoder.paint(batch.best) if decoder else None) for batch in batches]
        title = f"the plan of step {step}"
        pictures += converging(log.frames[step], plan, in_image, title, regions)
    return pictures


def draw_costs(log: EpisodeLog) -> bytes:
    """A PNG of the latent distance to the goal and the cost of each plan over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    count = min(len(log.distances), len(log.distance_steps))
    axes.plot(
        log.distance_steps[:count], log.distances[:count], "o-", ms=3, label="now: latent distance"
    )
    count = min(len(log.costs), len(log.plan_steps))
    axes.plot(log.plan_steps[:count], log.costs[:count], "s--", ms=3, label="cost of the plan")
    axes.set(xlabel="environment step", ylabel="mean squared distance to the goal", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    return as_png(figure)


def _guardrail_units(agent: Agent, log: EpisodeLog) -> set[str]:
    """Units of the guardrails on imagined states."""
    first = log.imagined[0]
    assert first.proprio is not None
    now = Trajectory(first.z[:1].to(agent.device), first.proprio[:1].to(agent.device))
    return {limit.unit for limit in guardrails(agent.problems.rules, agent.senses, now)}
