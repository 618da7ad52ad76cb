"""How the values of a plan become actions of environment steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.errors import UserError


@dataclass(frozen=True, eq=False)
class ActionLayout:
    """A plan has T model steps of F actions; `repeat` consecutive actions share one value.

    Attributes:
        horizon: model steps, T.
        frameskip: actions in a model step, F.
        repeat: actions that share a value; divides F.
        execute: environment steps executed before the agent replans.
        low: lower bounds of an action, ``[A]``.
        high: upper bounds.
        choices: how many options each choice of an action has, where actions are choices (see
            `planners.one_hot`); they sum to A.
    """

    horizon: int
    frameskip: int
    repeat: int
    execute: int
    low: Tensor
    high: Tensor
    choices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.frameskip % self.repeat:
            raise UserError(
                f"action_repeat is {self.repeat}: it must divide the frameskip, {self.frameskip}"
            )
        if self.execute > self.horizon * self.frameskip:
            raise UserError(
                f"execute is {self.execute}, but only {self.horizon} model steps of "
                f"{self.frameskip} actions are planned: execute at most all of them"
            )

    def planned(self, action: Tensor) -> Tensor:
        """An action ``[..., A]`` as the values of one model step, ``[..., F/repeat*A]``."""
        return action.repeat(*[1] * (action.ndim - 1), self.frameskip // self.repeat)

    @property
    def planned_choices(self) -> tuple[int, ...]:
        """The choices of one model step."""
        return self.choices * (self.frameskip // self.repeat)

    def primitive(self, plan: Tensor) -> Tensor:
        """Values ``[..., F/repeat*A]`` as the actions of a model step, ``[..., F*A]``."""
        values = plan.unflatten(-1, (-1, len(self.low)))
        return values.repeat_interleave(self.repeat, -2).flatten(-2)

    def sequence(self, plan: Tensor) -> Tensor:
        """A plan ``[E, T, F/repeat*A]`` as actions of environment steps, ``[E, T*F, A]``."""
        return self.primitive(plan).unflatten(-1, (self.frameskip, -1)).flatten(1, 2)

    def remainder(self, plan: Tensor, executed: int, hold: Tensor | None) -> Tensor:
        """The remainder of a plan after `executed` environment steps, of the plan's shape.

        It ends with the hold actions `hold` ``[E, A]`` or ``[A]``, or with the plan's last action.
        """
        actions = self.sequence(plan)
        end = actions[:, -1] if hold is None else hold.expand(len(actions), -1)
        rest = torch.cat([actions[:, executed:], end[:, None].expand(-1, executed, -1)], 1)
        values = rest.unflatten(1, (-1, self.repeat)).mean(2)
        return values.unflatten(1, (self.horizon, -1)).flatten(2)
