"""The problem that a planner solves: what it may call, and what its actions must keep.

Shapes use E episodes planned together, S samples, T model steps (the horizon), A numbers per
action, G guardrails, P tokens of D channels. A planner never sees a network or a simulator, only
three functions of predicted trajectories: the rollout, the cost, the guardrails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .checks import check_above, check_count
from .choices import one_hot


class Trajectory(NamedTuple):
    """A predicted trajectory, one frame after each action.

    `z` [E, S, T, P, D] are latents; `proprio` [E, S, T, Dp] is in SI units, or None.
    """

    z: Tensor
    proprio: Tensor | None = None


class Guardrail(Protocol):
    """A hard constraint: by how much each step violates it; `<= 0` is safe.

    `unit` is the unit of the violation ("m", "rad", …). `tier` is 1 where the promise is
    provable (a function of the actions and of measured quantities) and 2 where it rests on a
    learned model. The gradient planner also uses its gradient, where it has one.
    """

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def tier(self) -> int: ...

    def __call__(self, trajectory: Trajectory, actions: Tensor) -> Tensor:
        """Trajectory and actions [E, S, T, A] -> violation [E, S, T]."""
        ...


@dataclass(frozen=True, eq=False)
class ActionLimits:
    """Limits on actions within their bounds (tier 1). They depend on no model: every planner
    projects its candidates into them.

    before: the robot's action before the first one planned, [E, a]. A planned action of A numbers
        is A / a actions of the robot, one after the other.
    norm: largest length of an action of the robot, or None.
    change: largest change of any of its numbers from one action to the next, or None.

    Raises ValueError for limits that are not above 0.
    """

    before: Tensor
    norm: float | None = None
    change: float | None = None

    def __post_init__(self) -> None:
        for name, most in (("norm", self.norm), ("change", self.change)):
            if most is not None:
                check_above(name, most, 0)
        if self.before.ndim != 2 or not self.before.isfinite().all():
            raise ValueError(f"before must be finite and of shape [E, a], got {self.before}")
        longest = float(self.before.norm(dim=1).max())
        if self.norm is not None and longest > 1.0001 * self.norm:
            raise ValueError(f"before is {longest:g} long, above the norm {self.norm:g}")

    def project(self, actions: Tensor) -> Tensor:
        """Actions [E, ..., T, A] that keep the limits, close to these."""
        parts = actions.unflatten(-1, (-1, self.before.shape[1]))
        if self.norm is not None:
            length = parts.norm(dim=-1, keepdim=True)
            parts = torch.where(length > self.norm, parts * (self.norm / length * SHY), parts)
        if self.change is not None:
            flat = parts.flatten(-3, -2)  # [E, ..., steps, a]
            last = self.before.to(flat).view(-1, *[1] * (flat.ndim - 3), flat.shape[-1])
            steps = []
            for step in flat.unbind(-2):
                # On the way from the last action to this one, so within bounds if both are.
                move = step - last
                largest = move.abs().amax(-1, keepdim=True)
                share = torch.where(largest > self.change, self.change / largest * SHY, 1.0)
                last = torch.where(share < 1, last + share * move, step)
                steps.append(last)
            parts = torch.stack(steps, -2).view_as(parts)
        return parts.flatten(-2)


SHY = 1 - 1e-6  # of a limit: rounding must not carry an action beyond it


@dataclass(frozen=True, eq=False)
class Problem:
    """A planning problem, for E episodes at once.

    rollout: actions [E, S, T, A] in physical units -> Trajectory. Deterministic; differentiable
        if the gradient planner is to be used. S differs between calls: 1 in the verification.
    cost: (trajectory, actions) -> [E, S], lower is better. Any scale: only its order (MPPI: its
        relative spread; gradient: its direction) matters.
    low, high: bounds of one action [A], in its own units, finite, low < high.
    warm_start: a first guess [E, T, A], usually the last plan shifted; projected into the bounds.
        Without one, the search starts from the middle of the box.
    hold: an action [A] or [E, A] that keeps the robot where it is, or None. The plan that repeats
        it competes with the samples: near the goal, random search does not find exact rest.
    limits: limits on actions besides their bounds.
    choices: sizes of the groups of numbers of which one is 1 and the others are 0 (see `choices`);
        they sum to A, and bounds are 0 and 1. () for actions that are continuous.
    chunk: how many samples are rolled out at once (memory), or None for all of them. The gradient
        planner takes all of its few starts at once.

    Raises ValueError for shapes, bounds or values that cannot be planned with.
    """

    rollout: Callable[[Tensor], Trajectory]
    cost: Callable[[Trajectory, Tensor], Tensor]
    low: Tensor
    high: Tensor
    horizon: int
    episodes: int = 1
    guardrails: tuple[Guardrail, ...] = ()
    warm_start: Tensor | None = None
    hold: Tensor | None = None
    limits: ActionLimits | None = None
    choices: tuple[int, ...] = ()
    chunk: int | None = None

    def __post_init__(self) -> None:
        check_count("horizon", self.horizon)
        check_count("episodes", self.episodes)
        if self.chunk is not None:
            check_count("chunk", self.chunk)
        for name, bound in (("low", self.low), ("high", self.high)):
            if not isinstance(bound, Tensor) or bound.ndim != 1 or not len(bound):
                got = tuple(bound.shape) if isinstance(bound, Tensor) else type(bound).__name__
                raise ValueError(f"{name} must be a tensor of shape [A], got {got}")
            if not bound.is_floating_point():
                raise ValueError(f"{name} has dtype {bound.dtype}; use a floating-point tensor")
            if not bound.isfinite().all():
                raise ValueError(f"{name} must be finite, got {bound.tolist()}")
        low, high = self.low, self.high
        if (low.shape, low.dtype, low.device) != (high.shape, high.dtype, high.device):
            raise ValueError(
                "low and high must share shape, dtype and device, got "
                f"{tuple(low.shape)} {low.dtype} {low.device} and "
                f"{tuple(high.shape)} {high.dtype} {high.device}"
            )
        if not (low < high).all():
            at = int((low >= high).nonzero()[0, 0])
            raise ValueError(
                f"low must be below high, but in action dimension {at} "
                f"low is {low[at].item():g} and high is {high[at].item():g}"
            )
        if self.choices and (sum(self.choices) != len(low) or self.limits is not None):
            raise ValueError(
                f"choices are {self.choices}: they must sum to A = {len(low)}, and have no limits"
            )
        if self.warm_start is not None:
            shape = (self.episodes, self.horizon, len(low))
            if tuple(self.warm_start.shape) != shape:
                raise ValueError(
                    f"warm_start must have shape [episodes, horizon, A] = {shape}, "
                    f"got {tuple(self.warm_start.shape)}"
                )
            if not self.warm_start.isfinite().all():
                raise ValueError("warm_start has values that are not finite; pass None instead")
        if self.hold is not None:
            shapes = ((len(low),), (self.episodes, len(low)))
            if tuple(self.hold.shape) not in shapes or not self.hold.isfinite().all():
                raise ValueError(
                    f"hold must be finite and of shape [A] = {shapes[0]} or [E, A] = {shapes[1]}, "
                    f"got {self.hold.tolist()}"
                )
        if self.limits is not None:
            episodes, size = self.limits.before.shape
            if episodes != self.episodes or len(low) % size:
                raise ValueError(
                    f"limits.before has shape {(episodes, size)}: it must be [E, a] for "
                    f"{self.episodes} episodes, a a divisor of A = {len(low)}"
                )
            before = self.limits.before.repeat(1, len(low) // size).to(low)
            if not ((before >= low) & (before <= high)).all():
                raise ValueError(f"limits.before is out of bounds: {self.limits.before.tolist()}")
            if self.limits.norm is not None and not ((low <= 0) & (high >= 0)).all():
                raise ValueError("a limit on the norm needs bounds that 0 is within")

    def project(self, actions: Tensor) -> Tensor:
        """Actions [E, ..., T, A] within bounds and limits, close to these."""
        actions = one_hot(project(actions, self.low, self.high), self.choices)
        return actions if self.limits is None else self.limits.project(actions)

    @property
    def start(self) -> Tensor:
        """Where the search starts [E, T, A]: the warm start within the bounds, or mid-box."""
        if self.warm_start is None:
            centre = self.low + self.half_range
            return centre.expand(self.episodes, self.horizon, -1).clone()
        start = self.project(self.warm_start.detach().to(self.low))
        if self.choices:
            # Halfway to the middle of the box: noise would hardly ever change a choice at a corner.
            start = (start + self.low + self.half_range) / 2
        return start

    @property
    def half_range(self) -> Tensor:
        """(high - low) / 2 [A]: the unit in which planners state step sizes and sigmas."""
        return (self.high - self.low) / 2


def project(actions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The nearest actions within the bounds; the middle of the box where there is no number."""
    actions = torch.where(actions.isnan(), (low + high) / 2, actions)
    return torch.clamp(actions, low, high)
