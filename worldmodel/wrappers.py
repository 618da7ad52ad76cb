"""Guardrails and a surprise monitor around any policy.

    env = gym.make("envs:worldmodel/PushT-v0")
    env = GuardrailWrapper(env, ["max_change:0.01", "no_go:y=0:0.1,margin=0.01"], "pusht")

Whatever policy acts in `env`, such as one of Stable-Baselines3, the guardrails hold as they do in
our planners. Limits on actions (tier 1) suit every environment whose action is a vector in a Box.
`SurpriseMonitor` reports for every step how unusual its prediction errors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray
from torch import Tensor

import planners
from worldmodel.agent import Agent
from worldmodel.cli.device import pick_device
from worldmodel.control.action_layout import ActionLayout
from worldmodel.control.config import AgentConfig
from worldmodel.control.guardrails import action_limits, parse_rules
from worldmodel.control.hold import UNDECLARED, Declared, Hold, task_hold
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits
from worldmodel.models.checkpoint import load_checkpoint

Array = NDArray[Any]


class GuardrailWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Executes no action that violates a guardrail.

    Every action is clipped to the bounds and projected into the limits on actions. With rules on
    the robot, a world model predicts one model step of the action, followed by the hold action. If
    that violates a rule, the robot is held instead, or comes as close to that as ``max_change``
    allows; the same goes for an action that is not finite.

    ``info["guardrail"]`` has ``intervened``, ``reason`` (None, or what would be violated) and the
    executed ``action``.

    Args:
        env: its action is a vector in a Box. With rules on the robot, its observation is a Dict
            with ``pixels`` and ``proprio``, for which `checkpoint` was trained.
        rules: guardrails, see `worldmodel.control.guardrails`.
        checkpoint: a bundled name, a folder or hf:USER/NAME; needed for rules on the robot.
        hold: the action that holds the robot still: an action, "repeat" or a function of the
            observation. Default: the environment's Task, else the checkpoint's.
        device: device of the world model: auto, cpu, cuda or mps.

    Raises:
        UserError: a bad rule, an environment or a checkpoint that does not fit, or no hold action.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        rules: Sequence[str],
        checkpoint: str | Path | None = None,
        hold: Declared = None,
        device: str = "auto",
    ) -> None:
        RecordConstructorArgs.__init__(
            self, rules=list(rules), checkpoint=checkpoint, hold=hold, device=device
        )
        super().__init__(env)
        box = env.action_space
        if not isinstance(box, spaces.Box) or len(box.shape) != 1:
            raise UserError(f"guardrails limit actions that are vectors in a Box, not {box}")
        self.rules = parse_rules(rules)
        learned = [rule.text for rule in self.rules if rule.tier == 2]
        if learned and checkpoint is None:
            raise UserError(
                f"guardrail {learned[0]!r} is about predictions: give a checkpoint that makes them"
            )
        self.agent: Agent | None = None
        choices = [hold, task_hold(env)]
        if checkpoint is not None:
            model, encoder, info = load_checkpoint(checkpoint)
            choices.append(info.hold)
            if learned:
                check_fits(env, info)
                config = AgentConfig(execute=1, guardrails=tuple(rules))
                target = pick_device(device)
                parts = model.to(target), encoder.to(target), info
                first = hold if hold is not None else task_hold(env)
                self.agent = Agent(*parts, planners.make("cem"), config, first)
        low, high = (torch.from_numpy(bound).double() for bound in (box.low, box.high))
        self.hold = Hold(choices, ActionLayout(1, 1, 1, 1, low, high))
        if not self.hold.choices:
            raise UserError(UNDECLARED)
        self._obs: Any = None
        self._last: Tensor | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The environment's reset."""
        self._obs, info = self.env.reset(seed=seed, options=options)
        self._last = None
        if self.agent is not None:
            self.agent.reset(self._obs["pixels"])  # the goal plays no part
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The environment's step with the action, or with the one that replaces it."""
        wanted, reason = np.asarray(action, np.float64), None
        if wanted.shape != self.action_space.shape or not np.isfinite(wanted).all():
            reason = f"the action is {wanted.tolist()}"
            allowed = self._limited(self._held())
        else:
            allowed = self._limited(torch.from_numpy(wanted))
            if np.abs(allowed.numpy() - wanted).max() > 1e-6:
                reason = "a limit on actions"
        if self.agent is not None:
            self.agent.observe(self._obs)
            predicted = self.agent.imagine(allowed[None].float())
            if not predicted.feasible[0]:
                violated = (~(predicted.violations[0] <= 0)).any(0).tolist()  # also NaN
                names = [rule.text for rule in self.rules if rule.tier == 2]
                broken = ", ".join(n for n, yes in zip(names, violated, strict=True) if yes)
                reason = broken or "the prediction is not finite"
                allowed = self._limited(self._held())
            self.agent.took(allowed[None].float())
        self._last = allowed
        executed = allowed.numpy().astype(self.action_space.dtype)
        self._obs, reward, terminated, truncated, info = self.env.step(executed)
        result = {"intervened": reason is not None, "reason": reason, "action": executed}
        return self._obs, reward, terminated, truncated, {**info, "guardrail": result}

    def _held(self) -> Tensor:
        """The hold action ``[A]`` after the latest observation."""
        last = None if self._last is None else self._last[None]
        held = self.hold.actions([self._obs], last)
        if held is None:
            raise UserError(f"the robot must stop at its first step: {UNDECLARED}")
        return held[0].double()

    def _limited(self, action: Tensor) -> Tensor:
        """The action ``[A]`` within bounds and limits."""
        action = action.clamp(self.hold.layout.low, self.hold.layout.high)
        before = self.hold.actions([self._obs], None) if self._last is None else self._last[None]
        limits = None if before is None else action_limits(self.rules, before.double())
        return action if limits is None else limits.project(action[None, None])[0, 0]


class SurpriseMonitor(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Reports for every step how unusual the prediction errors of a world model are.

    ``info["surprise"]`` has ``p_value`` (the share of usual steps that are as surprising, see
    `worldmodel.surprise`) and ``alarm``, whether that is below the limit. Nothing else changes.

    Args:
        env: its observation is a Dict with ``pixels`` and ``proprio``.
        checkpoint: a bundled name, a folder or hf:USER/NAME, trained for `env`, with its usual
            errors.
        alarm: the limit.
        device: device of the world model: auto, cpu, cuda or mps.

    Raises:
        UserError: an environment or a checkpoint that does not fit.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        checkpoint: str | Path,
        alarm: float = 0.001,
        device: str = "auto",
    ) -> None:
        RecordConstructorArgs.__init__(self, checkpoint=checkpoint, alarm=alarm, device=device)
        super().__init__(env)
        model, encoder, info = load_checkpoint(checkpoint)
        check_fits(env, info)
        target, config = pick_device(device), AgentConfig(execute=1, alarm=alarm)
        parts = model.to(target), encoder.to(target), info
        self.agent = Agent(*parts, planners.make("cem"), config, task_hold(env))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The environment's reset; the first observation is no surprise."""
        obs, info = self.env.reset(seed=seed, options=options)
        self.agent.reset(obs["pixels"])  # the goal plays no part
        self.agent.observe(obs)
        return obs, {**info, "surprise": {"p_value": 1.0, "alarm": False}}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The environment's step, with the surprise in ``info``."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.agent.took(torch.as_tensor(action, dtype=torch.float32)[None])
        self.agent.observe(obs)
        surprise = self.agent.perception.surprise
        result = {"p_value": float(surprise.p_value[0]), "alarm": bool(surprise.alarmed[0])}
        return obs, reward, terminated, truncated, {**info, "surprise": result}
