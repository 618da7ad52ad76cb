"""The agent: model-predictive control towards a goal image.

It sees pixels and proprio, never the simulator's state nor whether it has succeeded::

    agent.reset(goal_pixels)
    while True:
        obs, *_ = env.step(agent.act(obs))

Every ``execute`` environment steps a planner looks for the actions whose imagined latents arrive at
the goal's soonest, starting from what is left of the last plan. (DINO-WM, Zhou et al. 2025, asks
them to be there at the horizon; but the horizon recedes, so arriving can be put off for ever.) What
the model sees are the frames of now and of one and more model steps ago: since a model step is
`frameskip` environment steps, replanning more often than that means encoding more frames, too.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import enum
import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import planners
from planners import Budget, Plan, Planner, Problem, Trajectory, merge, verify
from worldmodel.cli.device import has_bfloat16
from worldmodel.control.config import AgentConfig, PlannerConfig, make_config, make_planner
from worldmodel.control.expectation import WATCHED, Expectation, unexpected
from worldmodel.control.familiarity import Familiar
from worldmodel.control.guardrails import Rule, Senses, action_limits, guardrails, parse_rules
from worldmodel.data.images import load_image
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.world_model import WorldModel

if TYPE_CHECKING:
    from worldmodel.encoders.encoder import Encoder

Array = NDArray[Any]
__all__ = ["Agent", "AgentConfig", "PlannerConfig", "Stop", "make_config", "make_planner"]

UNLIMITED = 1_000_000  # iterations: time or convergence ends a search


class Stop(str, enum.Enum):
    """Why a robot stands still."""

    __str__ = str.__str__

    NO_PLAN = "no plan: everything imagined was NaN or violated a guardrail"
    LATE = "no plan: it came after the deadline"
    STALE = "a stale frame: the camera shows the same image, but the robot has moved"
    SURPRISED = "a surprise: for more than two model steps, nothing has been as expected"


class Agent:
    """Plans towards goal images for one robot, or for E robots at once.

    Attributes:
        last_plan: the latest `planners.Plan`, or None before the first.
        last_timings: ``encode_ms`` and ``plan_ms`` of the latest of each.
        stop_reasons: per episode, why it stands still (a `Stop`), or None.
        p_value: float ``[E]``, of what was seen latest: how large a share of what is usual is as
            surprising. 1 where that is not watched.
        errors: float ``[E, 3]``, what was not expected of it: see `worldmodel.expectation`.
        intervened: bool ``[E]``, whether the latest action is not the plan's: there was none that
            keeps the guardrails, or limits on actions changed it.
        distance: ``[E]``, mean squared latent distance of the latest encoded frame to the goal.

    Raises:
        UserError: `config` does not fit the horizon or the planner, or guardrails not the robot.
    """

    def __init__(
        self,
        model: WorldModel,
        encoder: Encoder,
        info: CheckpointInfo,
        planner: Planner,
        config: AgentConfig | None = None,
    ) -> None:
        self.encoder, self.planner = encoder, planner
        self.config = config or AgentConfig()
        self.info = info
        self.horizon = self.config.horizon or info.horizon
        default = Budget(info.samples, info.iterations)
        timed = self.config.budget_ms is not None
        if isinstance(planner, planners.Gradient):
            default = planner.default_budget  # its steps shrink towards the last iteration
        elif timed:
            default = dataclasses.replace(default, iterations=UNLIMITED)
        self.budget = Budget(
            self.config.samples or default.samples,
            self.config.iterations or default.iterations,
            self.config.budget_ms,
            self.config.patience or (5 if timed else None),
        )
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.device = self.model.action_low.device
        self.bfloat16 = self.config.bfloat16
        if self.bfloat16 is None:
            self.bfloat16 = has_bfloat16(self.device)
        if self.bfloat16:
            # Autocast would cast frozen weights anew on every call; cast them once.
            for layer in self.model.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.bfloat16()
        self.frameskip = self.model.config.frameskip
        self.execute = self.config.execute or self.frameskip
        if self.execute > self.horizon * self.frameskip:
            raise UserError(
                f"execute is {self.execute}, but only {self.horizon} model steps of "
                f"{self.frameskip} actions are planned: execute at most all of them"
            )
        self.objective = self.config.objective.make(getattr(info, "near", 0.1))
        self.expectation: Expectation | None = None
        if self.config.alarm:
            self.expectation = Expectation.of(info)
        # Steps between encoded frames: all of them are watched, or those that are planned from.
        self.look = 1 if self.expectation else math.gcd(self.execute, self.frameskip)
        self.repeat = self.config.action_repeat or self.frameskip
        if self.frameskip % self.repeat:
            raise UserError(
                f"action_repeat is {self.repeat}: it must divide the frameskip, {self.frameskip}"
            )
        planned = self.frameskip // self.repeat  # actions planned in one model step
        self.low = self.model.action_low.repeat(planned)
        self.high = self.model.action_high.repeat(planned)
        self.idle = self._idle().repeat(planned)
        self.rules = tuple(map(self._calibrated, parse_rules(self.config.guardrails)))
        weights = info.probe["weights"].to(self.device) if info.probe else None
        self.senses = Senses(
            info.proprio_names,
            tuple(info.probe.get("names", ())),
            weights,
            {rule.photo: self._seen_in(rule.photo) for rule in self.rules if rule.photo},
            self.model.distance,
            self._familiar(),
            info.action_names,
            self.model.action_low.tolist(),
            self.model.action_high.tolist(),
        )
        nowhere = torch.zeros(1, model.config.tokens, model.config.dim, device=self.device)
        still = torch.zeros(1, len(info.spec.proprio_mean), device=self.device)
        guardrails(self.rules, self.senses, Trajectory(nowhere, still))  # whether they suit
        self.last_plan: Plan | None = None
        self.last_timings = {"encode_ms": 0.0, "plan_ms": 0.0}
        self.stop_reasons: tuple[Stop | None, ...] = ()
        self.intervened = torch.empty(0, dtype=torch.bool)
        self.p_value, self.errors = torch.empty(0), torch.empty(0, 2)
        self._goal: Trajectory | None = None

    def calibration_key(self, rule: Rule) -> str:
        """A hash of all that the margin of a guardrail depends on: encoder, predictor, planner and
        its settings, how plans are carried out, and the guardrail itself."""
        digest = hashlib.sha256()
        probe = self.info.probe["weights"].numpy().tobytes() if self.info.probe else None
        seen = (self.info.encoder_hash, probe, self.bfloat16)
        planned = (self.planner, self.budget, self.objective)
        carried_out = (self.horizon, self.execute, self.repeat)
        digest.update(repr((seen, planned, carried_out, rule.bare)).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _calibrated(self, rule: Rule) -> Rule:
        """The rule, with the margin that was calibrated for it if it asks for that."""
        if rule.margin is not None:
            return rule
        known = self.info.calibration.get(self.calibration_key(rule))
        if known is None:
            raise UserError(
                f"guardrail {rule.text!r} was not calibrated for this model, planner and budget: "
                f"run python -m worldmodel.calibrate with them and --guardrail {rule.bare}"
            )
        return dataclasses.replace(rule, margin=float(known["margin"]))

    @property
    def stop_reason(self) -> Stop | None:
        """Why an episode stands still, or None while all of them have a plan."""
        return next((reason for reason in self.stop_reasons if reason), None)

    @property
    def alarmed(self) -> Tensor:
        """Whether what was seen latest is a surprise, bool ``[E]``."""
        return self.p_value < self.config.alarm

    def reset(self, goals: Array, seed: int | None = None, steps: int | None = None) -> None:
        """Begin an episode towards `goals`: uint8 ``[H, W, 3]``, or ``[E, H, W, 3]`` for E of them.

        Encodes the goals once, and forgets everything before.

        Args:
            goals: what it should look like.
            seed: in place of the config's.
            steps: how many the episode has, where that is known: then no plan arrives later.

        Raises:
            UserError: not such an image, or no steps.
        """
        if steps is not None and steps < 1:
            raise UserError(f"steps is {steps}: an episode has at least 1, or None if unknown")
        goals = _checked_pixels(goals, "goal")
        self._batched = goals.ndim == 4
        pixels = goals if self._batched else goals[None]
        z = self._encode(pixels)
        # Nobody knows the proprio at the goal: the model reads it off the image.
        with self._precision(), torch.no_grad():
            self._goal = Trajectory(z, self.model.read_proprio(z))
        self._generator = torch.Generator().manual_seed(self.config.seed if seed is None else seed)
        self._steps, self._deadline = 0, steps
        past = (self.model.config.context - 1) * self.frameskip
        past += self.frameskip if self.expectation else 0  # to expect what is seen now
        self._frames: deque[tuple[Tensor, Tensor]] = deque(maxlen=past // self.look + 1)
        self._taken: deque[Tensor] = deque(maxlen=past)  # actions [E, A]
        self._last = self._idle().expand(len(pixels), -1)  # the one before
        self.last_plan = None
        self._age = 0  # steps since the latest plan
        self._late = False
        self.stop_reasons = (None,) * len(pixels)
        self.distance = torch.empty(0)
        self.p_value = torch.ones(len(pixels))
        self.errors = torch.zeros(len(pixels), len(WATCHED))
        self._unexpected: deque[Tensor] = deque(maxlen=self.frameskip)  # the latest errors
        self._surprised = torch.zeros(len(pixels), dtype=torch.int64)  # for how many steps
        self._shown: tuple[Array, Tensor] | None = None
        self._stale = torch.zeros(len(pixels), dtype=torch.bool)

    def act(self, obs: Mapping[str, Array]) -> Array:
        """The next primitive action, float32 ``[a]`` (``[E, a]``), within the bounds.

        Args:
            obs: ``pixels`` uint8 ``[H, W, 3]`` and ``proprio`` ``[Dp]``, both with a leading E
                after a reset with E goals, as Gymnasium's vector environments give them.

        Raises:
            UserError: `obs` is not that, or `reset` was never called.
        """
        begun = time.perf_counter()
        self.observe(obs)
        if self.last_plan is None or self._age >= self.execute or self.alarmed.any():
            self._replan(begun)
        plan = self.last_plan
        assert plan is not None
        # A moment is seen for two model steps: what was expected before it, and the mean of that.
        lasting = self._surprised > 2 * self.frameskip
        self.stop_reasons = tuple(map(self._reason, plan.feasible, self._stale, lasting))
        stopped = torch.tensor([reason is not None for reason in self.stop_reasons])
        planned = self.sequence(plan.actions)[:, self._age]
        # Where there is no plan, it brakes: nothing is done, or as little as the limits allow.
        action = torch.where(stopped[:, None].to(self.device), 0.0, planned)
        action = action.clamp(self.model.action_low, self.model.action_high).float()
        # Once more, whatever the plan says: nothing learnt has a part in this.
        if limits := action_limits(self.rules, self._last):
            action = limits.project(action[:, None])[:, 0]
        self.intervened = ((action - planned).abs() > 1e-6).any(1).cpu() | stopped
        self.took(action)
        actions: Array = action.cpu().numpy()
        return actions if self._batched else actions[0]

    def observe(self, obs: Mapping[str, Array]) -> None:
        """Take in an observation, as `act` does before it plans.

        Raises:
            UserError: as `act`.
        """
        if self._goal is None:
            raise UserError("the agent has no goal yet: call agent.reset(goal_pixels) first")
        pixels, proprio = self._checked_obs(obs)
        if self._steps % self.look == 0:
            begun = time.perf_counter()
            z = self._encode(pixels)
            self._frames.append((z, proprio))
            self.distance = self.model.distance(z, self._goal.z).cpu()
            self.last_timings["encode_ms"] = _ms_since(begun)
            if self.expectation and self._steps:
                self._unexpected.append(self._errors_of(Trajectory(z, proprio)).cpu())
                self.errors = torch.stack(tuple(self._unexpected)).mean(0)
                self.p_value = self.expectation.p_value(self.errors)
                self._surprised = torch.where(self.alarmed, self._surprised + 1, 0)
        self._look_for_stale_frames(pixels, proprio)

    def took(self, action: Tensor) -> None:
        """Take note that this was done ``[E, A]``, whoever chose it, after what was observed."""
        self._last = action = action.to(self.device)
        self._taken.append(action)
        self._steps += 1
        self._age += 1

    def imagine(self, action: Tensor) -> Plan:
        """What is to be expected if this is done ``[E, A]`` for a model step, and nothing after it;
        ``feasible`` says whether that keeps the guardrails. At any step if ``execute`` is 1."""
        repeats = len(self.idle) // action.shape[-1]
        first = action.to(self.device).repeat(1, repeats).unsqueeze(1)
        rest = self.idle.expand(len(action), self.horizon - 1, -1)
        return verify(self.problem(), torch.cat([first, rest], 1))

    def problem(self, warm_start: Tensor | None = None) -> Problem:
        """What there is to plan now: be where the goal image was taken, within the horizon."""
        assert self._goal is not None and self._goal.proprio is not None
        goal_z = self._goal.z[:, None, None]  # [E, 1, 1, P, D]
        goal_proprio = self._goal.proprio[:, None, None]
        z, proprio, past = self._context()
        ends = None
        if self._deadline is not None:
            ends = math.ceil((self._deadline - self._steps) / self.frameskip)
        # An image that shows less than half of a number shows too little of it to aim at.
        readable = (2 * torch.tensor(self.info.readable) - 1).clamp(min=0)
        weight = self.objective.proprio_weight(self.distance)[:, None, None, None]
        readable = (weight * readable).to(self.device)  # [E, 1, 1, Dp]

        def rollout(actions: Tensor) -> Trajectory:
            with self._precision():
                return Trajectory(*self.model.rollout(z, proprio, past, self.primitive(actions)))

        def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
            assert trajectory.proprio is not None
            apart = self.model.distance(trajectory.z, goal_z)  # [E, S, T]
            deviation = (trajectory.proprio - goal_proprio) / self.model.proprio_std
            apart = apart + (readable * deviation.square()).sum(-1)
            return self.objective.cost(apart, ends)

        return Problem(
            rollout=rollout,
            cost=cost,
            low=self.low,
            high=self.high,
            horizon=self.horizon,
            episodes=len(goal_z),
            guardrails=guardrails(self.rules, self.senses, Trajectory(z[:, -1], proprio[:, -1])),
            warm_start=warm_start,
            hold=self.idle,
            limits=action_limits(self.rules, self._last),
            chunk=self._chunk(len(goal_z)),
        )

    def _chunk(self, episodes: int) -> int:
        """How many samples of each of so many episodes fit into `max_memory_mb`."""
        c = self.model.config
        # A block holds some eight times its width at once, in 4 bytes each, and twice that is safe.
        candidate = 64 * c.tokens * c.width + 16 * self.horizon * c.tokens * c.dim
        return max(1, int(1e6 * self.config.max_memory_mb / (candidate * episodes)))

    def read_proprio(self, pixels: Array) -> Array:
        """Proprio ``[Dp]`` as the model reads it off one image, uint8 ``[H, W, 3]``."""
        z = self._encode(_checked_pixels(pixels, "image")[None])
        with self._precision(), torch.no_grad():
            proprio: Array = self.model.read_proprio(z)[0].cpu().numpy()
        return proprio

    def primitive(self, planned: Tensor) -> Tensor:
        """Planned values ``[..., F/repeat*A]`` as a model step's actions ``[..., F*A]``."""
        size = len(self.model.action_low)
        return planned.unflatten(-1, (-1, size)).repeat_interleave(self.repeat, -2).flatten(-2)

    def sequence(self, planned: Tensor) -> Tensor:
        """A plan ``[E, T, F/repeat*A]`` as actions of environment steps ``[E, T*F, A]``."""
        return self.primitive(planned).unflatten(-1, (self.frameskip, -1)).flatten(1, 2)

    def left_over(self, planned: Tensor, done: int | None = None) -> Tensor:
        """What is left of a plan after `done` steps, by default `execute`, of the same shape: it
        ends in idleness."""
        done = self.execute if done is None else done
        left = self.sequence(planned)[:, done:]
        idle = self._idle().expand(len(left), done, -1)
        values = torch.cat([left, idle], 1).unflatten(1, (-1, self.repeat)).mean(2)
        return values.unflatten(1, (self.horizon, -1)).flatten(2)

    # ---------------------------------------------------------------------------------- inside
    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bool(self.bfloat16))

    @torch.no_grad()
    def _encode(self, pixels: Array) -> Tensor:
        """Latents ``[E, P, D]`` of uint8 ``[E, H, W, 3]``."""
        tokens = self.encoder.encode(torch.from_numpy(np.array(pixels)))
        with self._precision():
            return self.model.encode(tokens.to(self.device))

    def _seen_in(self, photo: str) -> Tensor:
        """Latents ``[P, D]`` of an image file."""
        return self._encode(load_image(photo, self.info.image_size)[None])[0]

    def _familiar(self) -> Callable[[Tensor, Tensor], Tensor]:
        """How far something is from what the data showed, where a rule asks for that."""
        if any(rule.kind == "familiar" for rule in self.rules):
            return Familiar.of(self.info, self.device).distance
        return lambda z, proprio: torch.zeros_like(proprio[..., 0])

    def _idle(self) -> Tensor:
        """Doing nothing for an environment step ``[A]``."""
        low, high = self.model.action_low, self.model.action_high
        return torch.zeros_like(low).clamp(low, high)

    def _context(self, back: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """What the model sees `back` steps ago: z ``[E, K, P, D]`` and proprio ``[E, K, Dp]`` of
        then and of whole model steps before, and the actions between them ``[E, K-1, F*A]``.

        Before there was a past, the robot has always stood where it began, as in training.
        """
        ago = [back + self.frameskip * k for k in reversed(range(self.model.config.context))]
        frames = [self._frames[-1 - min(steps, self._steps) // self.look] for steps in ago]
        z, proprio = (torch.stack(parts, 1) for parts in zip(*frames, strict=True))
        past = self._done(ago[0], back)
        return z, proprio, past.unflatten(1, (len(ago) - 1, self.frameskip)).flatten(2)

    def _done(self, since: int, until: int = 0) -> Tensor:
        """Actions ``[E, since - until, A]`` from so many steps ago to so many."""
        before = self._idle().expand(len(self._last), max(0, since - len(self._taken)), -1)
        taken = list(self._taken)[max(0, len(self._taken) - since) :]
        done = torch.cat([before, *(action[:, None] for action in taken)], 1)
        return done[:, : since - until]

    @torch.no_grad()
    def _errors_of(self, seen: Trajectory) -> Tensor:
        """What is not as the model expected it a model step ago, of what is seen now: z
        ``[E, P, D]`` and proprio ``[E, Dp]``."""
        actions = self._done(self.frameskip).flatten(1)[:, None, None]
        before = self._context(self.frameskip)
        with self._precision():
            z, proprio = self.model.rollout(*before, actions)
        expected = Trajectory(z[:, 0, 0], proprio[:, 0, 0])
        return unexpected(self.model, expected, seen, before[0][:, -1])

    def _replan(self, asked: float) -> None:
        """Plan, within what is left of the time since `asked`; where that fails or comes too late,
        keep to what is left of the plan before, if that was one and still keeps the guardrails."""
        begun = time.perf_counter()
        before = self.last_plan
        left = None if before is None else self.left_over(before.actions, self._age)
        problem = self.problem(left)
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
        if before is not None and left is not None and not plan.feasible.all():
            rest = verify(problem, left)
            plan = merge(plan, rest, ~plan.feasible & rest.feasible & before.feasible)
        self.last_plan, self._age = plan, 0
        self.last_timings["plan_ms"] = spent

    def _reason(self, feasible: Tensor, stale: Tensor, lasting: Tensor) -> Stop | None:
        """Why one episode stands still, if it does."""
        if stale:
            return Stop.STALE
        if lasting:
            return Stop.SURPRISED
        if feasible:
            return None
        return Stop.LATE if self._late else Stop.NO_PLAN

    def _look_for_stale_frames(self, pixels: Array, proprio: Tensor) -> None:
        """Note which cameras show the very image, byte for byte, that they showed when the robot
        was elsewhere: by a fifth of a standard deviation in anything that images show of it."""
        if self._shown is None:
            self._shown = pixels.copy(), proprio.clone()
        before, then = self._shown
        same = torch.from_numpy((pixels == before).all((1, 2, 3)))
        visible = torch.tensor(self.info.readable, device=self.device) > 0.5
        moved = (proprio - then).abs() > 0.2 * self.model.proprio_std
        self._stale = same & (moved & visible).any(1).cpu()
        before[~same.numpy()], then[~same] = pixels[~same.numpy()], proprio[~same]

    def _checked_obs(self, obs: Mapping[str, Array]) -> tuple[Array, Tensor]:
        """Pixels ``[E, H, W, 3]`` and proprio ``[E, Dp]`` of an observation."""
        missing = {"pixels", "proprio"} - set(obs)
        if missing:
            raise UserError(
                f"the observation lacks {', '.join(sorted(missing))}: it must have 'pixels' and "
                f"'proprio', this one has {', '.join(map(repr, obs))}"
            )
        pixels = _checked_pixels(obs["pixels"], "pixels")
        proprio = np.asarray(obs["proprio"], np.float32)
        if not self._batched:
            pixels, proprio = pixels[None], proprio[None]
        episodes, width = len(self.stop_reasons), len(self.model.spec.proprio_mean)
        if pixels.ndim != 4 or len(pixels) != episodes:
            raise UserError(
                f"pixels have shape {np.shape(obs['pixels'])}, which does not fit the "
                f"{episodes if self._batched else 'one unbatched'} goal(s) the agent was reset with"
            )
        if proprio.shape != (episodes, width):
            raise UserError(
                f"proprio has shape {np.shape(obs['proprio'])}, but this model knows {width} "
                f"numbers for each of {episodes} episode(s)"
            )
        if not np.isfinite(proprio).all():
            raise UserError(f"proprio is {proprio.tolist()}: all of it must be finite numbers")
        return pixels, torch.from_numpy(proprio).to(self.device)


def _checked_pixels(pixels: Array, what: str) -> Array:
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


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1e3
