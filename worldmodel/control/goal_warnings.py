"""What a person should know about a goal before any plan towards it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from worldmodel.control.familiarity import Familiar
from worldmodel.control.perception import Perception

Array = NDArray[Any]


def goal_warnings(
    seen: Perception, start: Array | None = None, success: bool | None = None
) -> list[str]:
    """Sentences about goals that are unlike the data, and about a start that is at the goal.

    Args:
        seen: it was reset with the goals.
        start: camera image at the start ``[H, W, 3]``, where there is one.
        success: whether the start is a success, where states tell; otherwise the latents decide.
    """
    sentences = _unfamiliar(seen)
    if success:
        sentences.append("the start already is a success: its state is within tolerance")
    elif success is None and start is not None:
        sentences += _near(seen, start)
    return sentences


def _unfamiliar(seen: Perception) -> list[str]:
    """Goals that lie farther from the stored frames of the data than usual frames do."""
    assert seen.goal is not None
    if not seen.info.familiar:
        return []
    familiar = Familiar.of(seen.info, seen.inference.device)
    goals = [seen.goal, *seen.next_goals]
    z, proprio = (
        torch.cat(parts) for parts in zip(*((g.z, g.proprio) for g in goals), strict=True)
    )
    distances = familiar.distance(z, proprio).tolist()
    names = [f"goal {n} of {len(z)}" for n in range(1, len(z) + 1)] if len(z) > 1 else ["the goal"]
    return [
        f"{name} is unlike the data: it is {distance:.2f} from the nearest familiar frame, and "
        "usual frames are within 1; is it an image of the same camera and scene?"
        for name, distance in zip(names, distances, strict=True)
        if distance > 1
    ]


def _near(seen: Perception, start: Array) -> list[str]:
    """A start whose latent distance to a present goal counts as near."""
    assert seen.goal is not None
    z = seen.inference.encode(start[None])
    distance, near = float(seen.inference.model.distance(z, seen.goal.z).min()), seen.info.near
    if distance > near:
        return []
    which = "the first goal" if seen.next_goals else "a goal" if seen.any_goal else "the goal"
    return [
        f"the start is near {which} already: their latent distance is {distance:.3g}, and "
        f"{near:.3g} counts as near"
    ]
