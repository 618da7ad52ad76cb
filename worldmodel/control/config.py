"""Settings of the agent, its objective and its planner, declared once for Python and flags."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import planners
from planners import Planner
from worldmodel.control.objective import ObjectiveConfig
from worldmodel.errors import UserError


@dataclass(frozen=True)
class AgentConfig:
    """How the agent plans and acts."""

    horizon: int | None = None
    """Model steps imagined; default: the checkpoint's."""
    execute: int | None = None
    """Environment steps executed before the agent replans; default: one model step."""
    samples: int | None = None
    """Candidates per iteration; default: the checkpoint's (gradient planner: its own)."""
    iterations: int | None = None
    """Iterations of a search; default: the checkpoint's (gradient planner: its own)."""
    budget_ms: float | None = None
    """Milliseconds from an observation to the action. Sampling planners iterate until then, or
    until they converge, unless iterations is set."""
    patience: int | None = None
    """Iterations without progress after which a search has converged; default: 5 with budget_ms,
    otherwise no limit."""
    max_memory_mb: float = 64.0
    """Megabytes that rollouts may take, roughly. Candidates are imagined in chunks of that size;
    chunks that fit into a processor's cache are fastest."""
    deadline_ms: float | None = None
    """Milliseconds after which a plan is too late to be executed."""
    alarm: float = 0.0
    """p-value below which an observation is a surprise, such as 0.001; 0 turns the monitor off.
    The agent replans at once, and stops when the surprise lasts for two model steps."""
    guardrails: tuple[str, ...] = ()
    """Constraints on every plan, such as no_go:x=0.1:0.3,y=0:0.2 or max_speed:0.1."""
    action_repeat: int | None = None
    """Primitive actions that share one planned value; divides the frameskip. Default: the whole
    frameskip, which gives a search in few dimensions."""
    seed: int = 0
    """Seed of the planner's random numbers."""
    bfloat16: bool | None = None
    """Imagine in bfloat16; default: where the device supports it."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What a plan costs."""

    def __post_init__(self) -> None:
        for name in ("horizon", "execute", "samples", "iterations", "patience", "action_repeat"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"{name} is {value!r}: it must be a whole number of at least 1")
        if not 0 < self.max_memory_mb < math.inf:
            raise UserError(f"max_memory_mb is {self.max_memory_mb!r}: it must be above 0")
        if not 0 <= self.alarm < 1:
            raise UserError(f"alarm is {self.alarm!r}: a p-value is at least 0 and below 1")
        for name in ("budget_ms", "deadline_ms", "seed"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"{name} is {value!r}: it must be at least 0")


@dataclass(frozen=True)
class PlannerConfig:
    """Which planner searches, and its options."""

    OPTIONS: ClassVar = "options"

    name: str = "cem"
    """cem, mppi, cmaes or gradient."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of that planner's class, each with a flag of its own: --planner.beta 2."""

    def __post_init__(self) -> None:
        self.make()

    def make(self) -> Planner:
        """The planner.

        Raises:
            UserError: no planner has that name or such an option; it names the nearest.
        """
        return make_planner(self.name, **self.options)


def make_planner(planner: str | Planner, **options: Any) -> Planner:
    """The planner of that name with these options, or `planner` itself where it is one.

    Raises:
        UserError: no planner has that name or such an option.
    """
    if not isinstance(planner, str):
        return planner
    try:
        return planners.make(planner, **options)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None


def make_config(**values: Any) -> AgentConfig:
    """An AgentConfig from keywords.

    Raises:
        UserError: an unknown field, naming the nearest, or a bad value.
    """
    known = [each.name for each in dataclasses.fields(AgentConfig)]
    for name in values:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1, 0.4)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise UserError(f"the agent has no setting {name!r}: {hint}it has {', '.join(known)}")
    return AgentConfig(**values)
