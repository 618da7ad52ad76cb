"""Guardrails, and a monitor, around a policy that is not ours.

    env = gym.make("envs:worldmodel/PushT-v0")
    env = Guardrail(env, ["max_change:0.01", "no_go:y=0:0.1,margin=0.01"], "pusht")

Whatever acts in `env`, a policy of Stable-Baselines3 or a hand, guardrails hold as they do in our
planners. Limits on actions (tier 1) suit any environment whose action is a vector in a Box.
`SurpriseMonitor` says of every step whether it was to be expected.
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
from worldmodel.agent import Agent, AgentConfig
from worldmodel.control.guardrails import action_limits, parse_rules
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits
from worldmodel.models.checkpoint import load_checkpoint

Array = NDArray[Any]


class Guardrail(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Lets no action through that breaks a guardrail.

    Every action is clipped to the bounds and projected into the limits on actions. Where there are
    rules on the robot, a world model imagines it for a model step, and nothing after it; if that
    breaks one, the robot brakes instead: it does nothing, or as little as ``max_change`` allows. So
    does an action that is no number.

    ``info["guardrail"]`` says ``intervened``, ``reason`` (None, or what would be broken) and the
    ``action`` that was taken.

    Args:
        env: its action is a vector in a Box; with rules on the robot, its observation is a Dict
            with ``pixels`` and ``proprio``, for which `checkpoint` was trained.
        rules: as `worldmodel.guardrails` reads them.
        checkpoint: a bundled name or a folder; needed for rules on the robot.

    Raises:
        UserError: a bad rule, an environment or checkpoint that does not suit it.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        rules: Sequence[str],
        checkpoint: str | Path | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, rules=list(rules), checkpoint=checkpoint)
        super().__init__(env)
        box = env.action_space
        if not isinstance(box, spaces.Box) or len(box.shape) != 1:
            raise UserError(f"guardrails limit actions that are vectors in a Box, not {box}")
        self.rules = parse_rules(rules)
        self.low, self.high = (torch.from_numpy(b).double() for b in (box.low, box.high))
        self.idle = torch.zeros_like(self.low).clamp(self.low, self.high)
        self.last = self.idle
        self.agent: Agent | None = None
        learned = [rule.text for rule in self.rules if rule.tier == 2]
        if learned and checkpoint is None:
            raise UserError(
                f"guardrail {learned[0]!r} is about what will happen: give a checkpoint that "
                "can imagine it"
            )
        if learned and checkpoint is not None:
            model, encoder, info = load_checkpoint(checkpoint)
            check_fits(env, info)
            config = AgentConfig(execute=1, guardrails=tuple(rules))
            self.agent = Agent(model, encoder, info, planners.make("cem"), config)
        self._obs: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As the environment's; nothing has been done yet."""
        self._obs, info = self.env.reset(seed=seed, options=options)
        self.last = self.idle
        if self.agent is not None:
            self.agent.reset(self._obs["pixels"])  # a goal it will not be asked to go to
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The environment's step with the action, or with what is done instead."""
        wanted = np.asarray(action, np.float64)
        reason = None
        if wanted.shape != tuple(self.low.shape) or not np.isfinite(wanted).all():
            reason = f"the action is {wanted.tolist()}"
            allowed = self._limited(self.idle)
        else:
            allowed = self._limited(torch.from_numpy(wanted))
            if np.abs(allowed.numpy() - wanted).max() > 1e-6:
                reason = "a limit on actions"
        if self.agent is not None:
            self.agent.observe(self._obs)
            imagined = self.agent.imagine(allowed[None].float())
            if not imagined.feasible[0]:
                broken = (~(imagined.violations[0] <= 0)).any(0).tolist()  # NaN is broken, too
                names = [rule.text for rule in self.rules if rule.tier == 2]
                kept = ", ".join(n for n, yes in zip(names, broken, strict=True) if yes)
                reason = kept or "nothing could be imagined"
                allowed = self._limited(self.idle)
            self.agent.took(allowed[None].float())
        self.last = allowed
        taken = allowed.numpy().astype(self.action_space.dtype)
        self._obs, reward, terminated, truncated, info = self.env.step(taken)
        said = {"intervened": reason is not None, "reason": reason, "action": taken}
        return self._obs, reward, terminated, truncated, {**info, "guardrail": said}

    def _limited(self, action: Tensor) -> Tensor:
        """The action ``[A]`` within bounds and limits."""
        action = action.clamp(self.low, self.high)
        limits = action_limits(self.rules, self.last[None])
        return action if limits is None else limits.project(action[None, None])[0, 0]


class SurpriseMonitor(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Says of every step how surprising it was to a world model.

    ``info["surprise"]`` has ``p_value`` (which share of usual steps is as surprising, by
    `worldmodel.surprise`) and ``alarm``, whether that is below the limit. Nothing else changes.

    Args:
        env: its observation is a Dict with ``pixels`` and ``proprio``.
        checkpoint: a bundled name or a folder, trained for it, which knows what is usual.
        alarm: the limit.

    Raises:
        UserError: an environment or checkpoint that does not suit it.
    """

    def __init__(
        self, env: gym.Env[Any, Any], checkpoint: str | Path, alarm: float = 0.001
    ) -> None:
        RecordConstructorArgs.__init__(self, checkpoint=checkpoint, alarm=alarm)
        super().__init__(env)
        model, encoder, info = load_checkpoint(checkpoint)
        check_fits(env, info)
        config = AgentConfig(execute=1, alarm=alarm)
        self.agent = Agent(model, encoder, info, planners.make("cem"), config)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As the environment's; the first observation surprises nobody."""
        obs, info = self.env.reset(seed=seed, options=options)
        self.agent.reset(obs["pixels"])  # a goal it will not be asked to go to
        self.agent.observe(obs)
        return obs, {**info, "surprise": {"p_value": 1.0, "alarm": False}}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The environment's step, watched."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.agent.took(torch.as_tensor(action, dtype=torch.float32)[None])
        self.agent.observe(obs)
        said = {"p_value": float(self.agent.p_value[0]), "alarm": bool(self.agent.alarmed[0])}
        return obs, reward, terminated, truncated, {**info, "surprise": said}
