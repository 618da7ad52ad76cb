"""What a person should know about a goal before any plan towards it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from worldmodel.control.familiarity import Familiar
from worldmodel.control.perception import Perception

Array = NDArray[Any]


def goal_warnings(seen: Perception, start: Array | None = None) -> list[str]:
    """A sentence for each reason to doubt the goal of one episode.

    Args:
        seen: it was reset with the goal.
        start: camera image at the start ``[H, W, 3]``, where there is one.
    """
    sentences = [unfamiliar_goal(seen)]
    if start is not None:
        sentences.append(reached_goal(seen, start))
    return [each for each in sentences if each]


def unfamiliar_goal(seen: Perception) -> str:
    """A sentence if the data showed nothing like the goal, else nothing.

    Without familiar frames in the checkpoint, that is unknown. Latents that hold little besides
    positions of objects tell little: any image has positions in them.
    """
    assert seen.goal is not None and seen.goal.proprio is not None
    if not seen.info.familiar:
        return ""
    familiar = Familiar.of(seen.info, seen.inference.device)
    distance = float(familiar.distance(seen.goal.z, seen.goal.proprio).max())
    if distance <= 1:
        return ""
    return (
        f"the goal is unlike the data: it is {distance:.2f} from the nearest familiar frame, and "
        "usual frames are within 1; is it an image of the same camera and scene?"
    )


def reached_goal(seen: Perception, start: Array) -> str:
    """A sentence if the start is near the goal in the latents, else nothing."""
    assert seen.goal is not None
    z = seen.inference.encode(start[None])
    distance = float(seen.inference.model.distance(z, seen.goal.z).max())
    if distance > seen.info.near:
        return ""
    return (
        f"the start is near the goal already: their latent distance is {distance:.3g}, and "
        f"{seen.info.near:.3g} counts as near"
    )
