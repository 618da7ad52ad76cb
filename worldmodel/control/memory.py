"""The past of an episode: frames and actions, of which the model sees a part."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor


class Context(NamedTuple):
    """What the model predicts from: K frames a model step apart, and the actions between them.

    Attributes:
        z: latents ``[E, K, P, D]``.
        proprio: ``[E, K, Dp]``.
        actions: ``[E, K-1, F*A]``.
    """

    z: Tensor
    proprio: Tensor
    actions: Tensor


class Memory:
    """Frames and actions of E episodes, back to the earliest that a context needs.

    Before its first frame, an episode is taken to have stood still: its first frame and `before`
    repeat, as in training.

    Args:
        context: frames that the model sees, K.
        frameskip: actions in a model step, F.
        every: actions between frames that are kept.
        past: actions that are kept.
        before: action before the first frame, ``[E, A]``.
    """

    def __init__(self, context: int, frameskip: int, every: int, past: int, before: Tensor) -> None:
        self.size, self.frameskip, self.every = context, frameskip, every
        self.before = self.last_action = before
        self.steps = 0  # actions since the first frame
        self._frames: deque[tuple[Tensor, Tensor]] = deque(maxlen=past // every + 1)
        self._actions: deque[Tensor] = deque(maxlen=past)

    def add_frame(self, z: Tensor, proprio: Tensor) -> None:
        """Add latents ``[E, P, D]`` and proprio ``[E, Dp]``."""
        self._frames.append((z, proprio))

    def add_action(self, action: Tensor) -> None:
        """Add the actions ``[E, A]`` that follow the latest observation."""
        self.last_action = action
        self._actions.append(action)
        self.steps += 1

    def context(self, ago: int = 0) -> Context:
        """The context `ago` steps before now."""
        steps = [ago + self.frameskip * k for k in reversed(range(self.size))]
        frames = [self._frames[-1 - min(back, self.steps) // self.every] for back in steps]
        z, proprio = (torch.stack(parts, 1) for parts in zip(*frames, strict=True))
        actions = self.actions(steps[0], ago)
        return Context(z, proprio, actions.unflatten(1, (self.size - 1, self.frameskip)).flatten(2))

    def actions(self, since: int, until: int = 0) -> Tensor:
        """Actions ``[E, since - until, A]`` from `since` steps ago to `until` steps ago."""
        missing = max(0, since - len(self._actions))
        before = self.before[:, None].expand(-1, missing, -1)
        latest = list(self._actions)[max(0, len(self._actions) - since) :]
        actions = torch.cat([before, *(action[:, None] for action in latest)], 1)
        return actions[:, : since - until]
