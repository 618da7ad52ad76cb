"""Checks of what the agent receives: goal images, observations and actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from worldmodel.errors import UserError

Array = NDArray[Any]
REACH = ("any", "each")


def check_pixels(pixels: Array, what: str) -> Array:
    """Images, uint8 ``[H, W, 3]`` or ``[E, H, W, 3]``.

    Raises:
        UserError: `pixels` is not that; the message calls it `what`.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        raise UserError(
            f"{what} is {pixels.dtype} {list(pixels.shape)}: expected RGB, uint8 [H, W, 3] "
            "(or [E, H, W, 3])"
        )
    if pixels.shape[-3] != pixels.shape[-2] or not pixels.size:
        raise UserError(
            f"{what} is {pixels.shape[-2]}x{pixels.shape[-3]} pixels: it must be square"
        )
    return pixels


def check_reach(reach: str) -> str:
    """Which of several goals to reach: "any" or "each".

    Raises:
        UserError: `reach` is neither.
    """
    if reach not in REACH:
        raise UserError(f"reach is {reach!r}: choose any (the cheapest) or each (in their order)")
    return reach


def check_observation(
    obs: Mapping[str, Array], episodes: int, batched: bool, width: int
) -> tuple[Array, Array]:
    """Pixels ``[E, H, W, 3]`` and proprio, float32 ``[E, Dp]``, of an observation.

    Args:
        obs: ``pixels`` and ``proprio``.
        episodes: E.
        batched: whether both have a leading E; otherwise E is 1.
        width: numbers of proprio, Dp.

    Raises:
        UserError: a key is missing, or has the wrong type or shape, or is not finite.
    """
    missing = {"pixels", "proprio"} - set(obs)
    if missing:
        raise UserError(
            f"the observation lacks {', '.join(sorted(missing))}: it must have 'pixels' and "
            f"'proprio', this one has {', '.join(map(repr, obs))}"
        )
    pixels = check_pixels(obs["pixels"], "pixels")
    proprio = np.asarray(obs["proprio"], np.float32)
    if not batched:
        pixels, proprio = pixels[None], proprio[None]
    if pixels.ndim != 4 or len(pixels) != episodes:
        raise UserError(
            f"pixels have shape {np.shape(obs['pixels'])}, which does not fit the "
            f"{episodes if batched else 'one unbatched'} goal(s) the agent was reset with"
        )
    if proprio.shape != (episodes, width):
        raise UserError(
            f"proprio has shape {np.shape(obs['proprio'])}, but this model has {width} "
            f"numbers for each of {episodes} episode(s)"
        )
    if not np.isfinite(proprio).all():
        raise UserError(f"proprio is {proprio.tolist()}: all of it must be finite numbers")
    return pixels, proprio


def check_action(action: ArrayLike, shape: tuple[int, int]) -> Tensor:
    """Actions, float32 of shape ``[E, A]``, from ``[A]`` or ``[E, A]``.

    Raises:
        UserError: `action` is not that, or not finite.
    """
    values = np.asarray(action, np.float32)
    if values.shape not in (shape, shape[1:]) or not np.isfinite(values).all():
        raise UserError(f"action is {values.tolist()}: it must be finite and of shape {shape}")
    return torch.from_numpy(np.broadcast_to(values, shape).copy())


def split_observation(
    obs: Mapping[str, Array], episodes: int, batched: bool
) -> list[Mapping[str, Array]]:
    """The observation of each of so many episodes."""
    if not batched:
        return [obs]
    return [{name: values[e] for name, values in obs.items()} for e in range(episodes)]
