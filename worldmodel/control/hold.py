"""The hold action: what the robot does to stay where it is.

The agent brakes with it, plans end with it, and the model's context starts with it. Velocity and
force commands hold with zeros, absolute position targets by repeating the last action. It is
declared in one of three ways:

- a fixed action, such as ``[0, 0]``;
- ``"repeat"``: the last action again;
- a function of the observation, ``hold(obs) -> action``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from envs.task import task_of
from worldmodel.control.action_layout import ActionLayout
from worldmodel.errors import UserError

HoldFunction = Callable[[Any], ArrayLike | None]
Declared = ArrayLike | Literal["repeat"] | HoldFunction | None
UNDECLARED = (
    "no hold action is declared, so the robot cannot be stopped safely: pass hold= (an action, "
    "'repeat' or a function of the observation), or record the data with collect --hold"
)


class Hold:
    """The hold action of a robot.

    Args:
        choices: declarations in order of preference; those that are None are skipped.
        layout: gives the bounds of actions.

    Raises:
        UserError: a declaration is not a hold action.
    """

    def __init__(self, choices: Sequence[Declared], layout: ActionLayout) -> None:
        self.layout = layout
        self.choices = [self._checked(choice) for choice in choices if choice is not None]

    @property
    def fixed(self) -> Tensor | None:
        """The hold action ``[A]``, where it is the same for every observation."""
        first = self.choices[0] if self.choices else None
        return first if isinstance(first, Tensor) else None

    def actions(
        self, observations: Sequence[Mapping[str, Any]], last: Tensor | None
    ) -> Tensor | None:
        """Hold actions ``[E, A]``, or None where none is declared.

        Args:
            observations: one of each episode.
            last: actions before, ``[E, A]``; None where none is known: then "repeat" gives None.

        Raises:
            UserError: a function returns something else than an action.
        """
        for choice in self.choices:
            if isinstance(choice, Tensor):
                return choice.expand(len(observations), -1)
            if isinstance(choice, str):
                return last
            assert callable(choice)
            found = [choice(obs) for obs in observations]
            if all(action is not None for action in found):
                return torch.stack([self._bounded(action) for action in found])
        return None

    def _checked(self, choice: Declared) -> Tensor | str | HoldFunction:
        if callable(choice):
            return choice
        if isinstance(choice, str):
            if choice != "repeat":
                raise UserError(f"hold is {choice!r}: use an action, 'repeat' or a function")
            return choice
        return self._bounded(choice)

    def _bounded(self, action: ArrayLike | None) -> Tensor:
        """A declared action ``[A]`` within the bounds."""
        low, high = self.layout.low, self.layout.high
        values = np.asarray(action, np.float32)
        if values.shape != tuple(low.shape) or not np.isfinite(values).all():
            raise UserError(
                f"hold is {values.tolist()}: it must be {len(low)} finite numbers, an action"
            )
        return torch.from_numpy(values).to(low).clamp(low, high)


def task_hold(env: gym.Env[Any, Any]) -> HoldFunction | None:
    """The hold function of the environment's Task, or None where it has no Task."""
    try:
        return task_of(env).hold  # type: ignore[no-any-return]
    except ValueError:
        return None
