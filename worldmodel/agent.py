"""The agent: model-predictive control towards a goal image.

It sees pixels and proprioception, never the simulator's state or whether it has succeeded::

    agent.reset(goal_pixels)
    while True:
        obs, *_ = env.step(agent.act(obs))

Every ``execute`` environment steps it replans: a planner searches for the actions whose predicted
latents cost least by the objective, with the remainder of the previous plan as a warm start. The
model predicts from the present frame and frames one or more model steps ago. A model step is
`frameskip` environment steps, so an agent that replans more often encodes more frames.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

import planners
from planners import Budget, Plan, Planner, Problem, merge, one_hot, verify
from worldmodel.control.action_layout import ActionLayout
from worldmodel.control.config import AgentConfig
from worldmodel.control.goal_problem import GoalProblems
from worldmodel.control.guardrails import Rule, action_limits, parse_rules
from worldmodel.control.hold import UNDECLARED, Declared, Hold
from worldmodel.control.inference import Inference
from worldmodel.control.margins import calibrated, calibration_key
from worldmodel.control.observations import check_pixels
from worldmodel.control.perception import Perception
from worldmodel.control.rule import ACTION_KINDS
from worldmodel.control.senses import make_senses
from worldmodel.control.surprise import UsualErrors
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.world_model import WorldModel

if TYPE_CHECKING:
    from worldmodel.encoders.encoder import Encoder

Array = NDArray[Any]

UNLIMITED = 1_000_000  # iterations: time or convergence ends a search


class Stop(str, enum.Enum):
    """Why a robot is held."""

    __str__ = str.__str__

    NO_PLAN = "no plan: every candidate was predicted NaN or violates a guardrail"
    LATE = "no plan: it came after the deadline"
    STALE = "a stale frame: the camera shows the same image, but the robot has moved"
    SURPRISED = "a surprise: for more than two model steps, prediction errors were unusual"


class Agent:
    """Plans towards goal images for one robot, or for E robots at once.

    Args:
        model: a world model, on the device that computes.
        encoder: its encoder.
        info: the rest of the checkpoint.
        planner: searches for actions.
        config: settings.
        hold: the action that holds the robot still (see `worldmodel.control.hold`); default: the
            checkpoint's.

    Attributes:
        last_plan: the latest `planners.Plan`, or None before the first.
        last_timings: ``encode_ms`` and ``plan_ms`` of the latest of each.
        stop_reasons: per episode, why it is held (a `Stop`), or None.
        intervened: bool ``[E]``, whether the latest action differs from the plan's, because there
            is none that keeps the guardrails, or limits on actions changed it.
        perception: the present and the past: distance to the goal, hold action, surprise.

    Raises:
        UserError: `config` does not fit the horizon or the planner; guardrails do not fit the
            robot, or there is no action to hold it with.
    """

    def __init__(
        self,
        model: WorldModel,
        encoder: Encoder,
        info: CheckpointInfo,
        planner: Planner,
        config: AgentConfig | None = None,
        hold: Declared = None,
    ) -> None:
        self.config = config = config or AgentConfig()
        self.encoder, self.info, self.planner = encoder, info, planner
        self.inference = Inference(model, encoder, config.bfloat16)
        self.model, self.device = self.inference.model, self.inference.device
        self.horizon, self.frameskip = config.horizon or info.horizon, model.config.frameskip
        self.layout = ActionLayout(
            self.horizon,
            self.frameskip,
            config.action_repeat or self.frameskip,
            config.execute or self.frameskip,
            self.model.action_low,
            self.model.action_high,
            info.choices,
        )
        self.execute = self.layout.execute
        self.low = self.layout.planned(self.layout.low)
        self.high = self.layout.planned(self.layout.high)
        self.budget = _budget(config, planner, info)
        self.objective = config.objective.make(info.near)
        self.rules = tuple(
            calibrated(rule, info, self.calibration_key(rule))
            for rule in parse_rules(config.guardrails)
        )
        if info.choices:
            _check_choices(self.rules, planner)
        self.senses = make_senses(self.rules, info, self.inference)
        self.problems = GoalProblems(
            self.inference, self.objective, self.layout, info.readable, self.rules, self.senses
        )
        self.hold = Hold((hold, info.hold), self.layout)
        if self.rules and not self.hold.choices:
            raise UserError(f"guardrails {', '.join(config.guardrails)}: {UNDECLARED}")
        # Environment steps between encoded frames: the monitor needs all frames, plans fewer.
        self.look = 1 if config.alarm else math.gcd(self.execute, self.frameskip)
        usual = UsualErrors.of(info) if config.alarm else None
        self.perception = Perception(
            self.inference, info, self.hold, usual, config.alarm, self.look
        )
        self.last_plan: Plan | None = None
        self.last_timings = {"encode_ms": 0.0, "plan_ms": 0.0}
        self.stop_reasons: tuple[Stop | None, ...] = ()
        self.intervened = torch.empty(0, dtype=torch.bool)

    def reset(
        self,
        goals: Array,
        seed: int | None = None,
        steps: int | None = None,
        last_action: ArrayLike | None = None,
        reach: str | None = None,
    ) -> None:
        """Begin an episode towards `goals`: encode them once, and forget everything before.

        Args:
            goals: goal images, uint8 ``[H, W, 3]``, or ``[E, H, W, 3]`` for E episodes, or
                ``[N, H, W, 3]`` for one episode with N goals (see `reach`).
            seed: seed of the planner, in place of the config's.
            steps: environment steps of the episode, where known: no plan arrives later.
            last_action: action of the robot before the episode, ``[A]`` or ``[E, A]``; default:
                the hold action.
            reach: with N goals of one episode, "any" or "each". A plan costs what it costs towards
                the goal that it is cheapest towards; or the goals come one after the other, the
                next when the latent distance to the present one is at most the checkpoint's `near`.

        Raises:
            UserError: `goals` are not such images, `last_action` is no action, `steps` < 1, or
                `reach` is neither.
        """
        if steps is not None and steps < 1:
            raise UserError(f"steps is {steps}: an episode has at least 1, or None if unknown")
        self.perception.reset(goals, last_action, reach)
        self._generator = torch.Generator().manual_seed(self.config.seed if seed is None else seed)
        self._ends = steps
        self._age = 0  # steps since the latest plan
        self._late = False
        self.last_plan = None
        self.stop_reasons = (None,) * self.perception.episodes

    def act(self, obs: Mapping[str, Array]) -> Array:
        """The next primitive action, float32 ``[A]`` (``[E, A]``), within the bounds.

        Args:
            obs: ``pixels`` uint8 ``[H, W, 3]`` and ``proprio`` ``[Dp]``, both with a leading E
                after a reset with E goals, as Gymnasium's vector environments give them.

        Raises:
            UserError: `obs` is not that, `reset` was never called, or the robot has to be held and
                no hold action is declared.
        """
        begun = time.perf_counter()
        self.observe(obs)
        if self.last_plan is None or self._age >= self.execute or self.alarmed.any():
            self._replan(begun)
        plan, seen = self.last_plan, self.perception
        assert plan is not None
        lasting = seen.surprise.lasting
        self.stop_reasons = tuple(map(self._reason, plan.feasible, seen.stale, lasting))
        stopped = torch.tensor([reason is not None for reason in self.stop_reasons])
        planned = action = self.sequence(plan.actions)[:, self._age]
        if stopped.any():
            if seen.held is None:
                raise UserError(f"the robot must stop ({self.stop_reason}): {UNDECLARED}")
            action = torch.where(stopped[:, None].to(self.device), seen.held, planned)
        action = self._limited(action)
        self.intervened = ((action - planned).abs() > 1e-6).any(1).cpu() | stopped
        self.took(action)
        actions: Array = action.cpu().numpy()
        return actions if seen.batched else actions[0]

    def observe(self, obs: Mapping[str, Array]) -> None:
        """Take in an observation, as `act` does before it plans.

        Raises:
            UserError: as `act`.
        """
        self.perception.observe(obs)
        self.last_timings["encode_ms"] = self.perception.encode_ms

    def took(self, action: Tensor) -> None:
        """Record the actions ``[E, A]`` executed after the latest observation, by whomever."""
        self.perception.memory.add_action(action.to(self.device))
        self._age += 1

    def problem(self, warm_start: Tensor | None = None) -> Problem:
        """The planning problem after the latest observation.

        Args:
            warm_start: planned values ``[E, T, F/repeat*A]`` to start the search from.
        """
        left = None if self._ends is None else self._ends - self.perception.memory.steps
        return self.problems.build(self.perception, left, warm_start, self.config.max_memory_mb)

    def imagine(self, action: Tensor) -> Plan:
        """The prediction for actions ``[E, A]`` over one model step, followed by the hold action;
        ``feasible`` tells whether that keeps the guardrails. At any step if ``execute`` is 1."""
        first = self.layout.planned(action.to(self.device))
        held = self.perception.held
        end = first if held is None else self.layout.planned(held)
        rest = [end] * (self.horizon - 1)
        return verify(self.problem(), torch.stack([first, *rest], 1))

    def sequence(self, planned: Tensor) -> Tensor:
        """A plan ``[E, T, F/repeat*A]`` as actions of environment steps ``[E, T*F, A]``."""
        return self.layout.sequence(planned)

    def read_proprio(self, pixels: Array) -> Array:
        """Proprio ``[Dp]`` as the model reads it off one image, uint8 ``[H, W, 3]``."""
        z = self.inference.encode(check_pixels(pixels, "image")[None])
        proprio: Array = self.inference.read_proprio(z)[0].cpu().numpy()
        return proprio

    def calibration_key(self, rule: Rule) -> str:
        """A hash of all that the margin of a guardrail depends on."""
        settings = (self.inference.bfloat16, self.planner, self.budget, self.objective)
        executed = (self.horizon, self.execute, self.layout.repeat)
        return calibration_key(rule, self.info, self.model, (*settings, *executed))

    @property
    def distance(self) -> Tensor:
        """Squared latent distance of the latest encoded frame to the (nearest) goal, ``[E]``."""
        return self.perception.distance

    @property
    def stop_reason(self) -> Stop | None:
        """Why an episode is held, or None while all of them have a plan."""
        return next((reason for reason in self.stop_reasons if reason), None)

    @property
    def alarmed(self) -> Tensor:
        """Whether the latest observation is a surprise, bool ``[E]``."""
        return self.perception.surprise.alarmed

    def _replan(self, asked: float) -> None:
        """Plan within the time that remains since `asked`.

        Where that fails or comes too late, keep to the remainder of the previous plan, if that was
        feasible and still is.
        """
        begun = time.perf_counter()
        before, rest = self.last_plan, None
        if before is not None:
            rest = self.layout.remainder(before.actions, self._age, self.perception.held)
        problem = self.problem(rest)
        budget = self.budget
        if budget.budget_ms is not None:
            time_left = max(0.0, budget.budget_ms - _ms_since(asked))
            budget = dataclasses.replace(budget, budget_ms=time_left)
        plan = self.planner.plan(problem, budget, self._generator)
        spent = _ms_since(begun)
        deadline = self.config.deadline_ms
        self._late = deadline is not None and spent > deadline
        if self._late:
            plan = dataclasses.replace(plan, feasible=torch.zeros_like(plan.feasible))
        if before is not None and rest is not None and not plan.feasible.all():
            again = verify(problem, rest)
            plan = merge(plan, again, ~plan.feasible & again.feasible & before.feasible)
        self.last_plan, self._age = plan, 0
        self.last_timings["plan_ms"] = spent

    def _reason(self, feasible: Tensor, stale: Tensor, lasting: Tensor) -> Stop | None:
        """Why one episode is held, if it is."""
        if stale:
            return Stop.STALE
        if lasting:
            return Stop.SURPRISED
        if feasible:
            return None
        return Stop.LATE if self._late else Stop.NO_PLAN

    def _limited(self, action: Tensor) -> Tensor:
        """Actions ``[E, A]`` within bounds and limits, independent of the plan and of any model."""
        action = action.clamp(self.layout.low, self.layout.high).float()
        action = one_hot(action, self.layout.choices)
        limits = action_limits(self.rules, self.perception.memory.last_action)
        return limits.project(action[:, None])[:, 0] if limits else action


def _check_choices(rules: Sequence[Rule], planner: Planner) -> None:
    """Raise UserError for what needs actions that are continuous."""
    for rule in rules:
        if rule.kind in ACTION_KINDS:
            raise UserError(f"guardrail {rule.text!r}: actions are choices here, without a size")
    if planner.name == planners.Gradient.name:
        raise UserError("planner gradient: actions are choices here; use cem or cmaes")


def _budget(config: AgentConfig, planner: Planner, info: CheckpointInfo) -> Budget:
    """How long to search: the config's, else the checkpoint's or the planner's own."""
    default = Budget(info.samples, info.iterations)
    timed = config.budget_ms is not None
    if planner.name == planners.Gradient.name:
        default = planner.default_budget  # its steps shrink towards the last iteration
    elif timed:
        default = dataclasses.replace(default, iterations=UNLIMITED)
    return Budget(
        config.samples or default.samples,
        config.iterations or default.iterations,
        config.budget_ms,
        config.patience or (5 if timed else None),
    )


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1e3
