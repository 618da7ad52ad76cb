"""One robot that a server plans for: observations in, actions out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.agent import Agent
from worldmodel.cli import warn
from worldmodel.control.goal_warnings import goal_warnings
from worldmodel.data.image_fit import ImageFit, checked_images
from worldmodel.errors import UserError

Array = NDArray[Any]
KEYS = ("pixels", "proprio", "time", "goal", "reset", "steps")
LATE = "a late frame: it is older than one that was answered"


class RobotSession:
    """An episode of one robot.

    A message is a dict of:

    ``pixels``   camera image, uint8 ``[H, W, 3]``, of any size
    ``proprio``  what the robot measures, ``[Dp]``; it may be left out where the model knows none
    ``time``     seconds on the robot's clock when the image was taken, optional
    ``goal``     goal image; begins a new episode
    ``reset``    true begins a new episode towards the same goal
    ``steps``    steps of the new episode, where known

    and the answer to one with pixels is a dict of:

    ``actions``      the next action ``[1, A]``, in the robot's units
    ``stop_reason``  None, or why the action holds the robot
    ``distance``     squared latent distance to the goal, ``near`` where it counts as near
    ``goals_left``   number of goals that come after the present one
    ``plan_ms``      of the latest plan

    A frame of the same ``time`` gets the same answer again, and the agent does not see it twice. An
    older one is answered with the hold action.

    Args:
        agent: its own, with the weights shared.
        goal: uint8 ``[S, S, 3]``, or several ``[N, S, S, 3]``, or None until the robot sends one.
        reach: which of several: see `Agent.reset`.
    """

    def __init__(self, agent: Agent, goal: Array | None = None, reach: str = "each") -> None:
        self.agent, self.goal, self.reach = agent, goal, reach
        self.fit = ImageFit(agent.info.image_size, agent.info.fit)
        self._begun = self._warned = False
        self._time: float | None = None
        self._answer: dict[str, Any] = {}

    def answer(self, message: Any) -> dict[str, Any]:
        """The answer to a message.

        Raises:
            UserError: it is no such message, there is no goal, or the robot has to be held and no
                hold action is declared.
        """
        if not isinstance(message, Mapping):
            raise UserError(f"a message is a dict, not a {type(message).__name__}")
        if unknown := [str(key) for key in message if key not in KEYS]:
            raise UserError(f"the message has {unknown[0]!r}: it may have {', '.join(KEYS)}")
        if "goal" in message:
            self.goal = self._image(message["goal"], "goal")
        if "goal" in message or message.get("reset"):
            self._begun = False
        if not self._begun:
            self._begin(message.get("steps"))
        if "pixels" not in message:
            return {}
        taken = message.get("time")
        if not isinstance(taken, int | float | None):
            raise UserError(f"time is {taken!r:.60}: it must be seconds")
        if taken is not None and self._time is not None:
            if taken == self._time:
                return self._answer
            if taken < self._time:
                return {**self._answer, "actions": self._held(), "stop_reason": LATE}
        self._answer = self._act(message)
        self._time = taken
        return self._answer

    def _begin(self, steps: Any) -> None:
        if self.goal is None:
            raise UserError("there is no goal: send one, or start the server with --goal")
        if steps is not None and not isinstance(steps, int):
            raise UserError(f"steps is {steps!r}: it must be a whole number")
        self.agent.reset(self.goal, steps=steps, reach=self.reach)
        self._begun, self._warned, self._time = True, False, None

    def _act(self, message: Mapping[str, Any]) -> dict[str, Any]:
        pixels = self._image(message["pixels"], "pixels")
        proprio = self._proprio(message.get("proprio"))
        if not self._warned:  # the episode begins
            self._warned = True
            for sentence in goal_warnings(self.agent.perception, pixels):
                warn(sentence)
        begun = time.perf_counter()
        action = self.agent.act({"pixels": pixels, "proprio": proprio})
        return {
            "actions": action[None],
            "stop_reason": None if self.agent.stop_reason is None else str(self.agent.stop_reason),
            "distance": float(self.agent.distance[0]),
            "near": self.agent.info.near,
            "goals_left": len(self.agent.perception.next_goals),
            "plan_ms": self.agent.last_timings["plan_ms"],
            "server_timing": {"infer_ms": 1e3 * (time.perf_counter() - begun)},
        }

    def _proprio(self, measured: Any) -> Array:
        info = self.agent.info
        width = len(info.spec.proprio_mean)
        if measured is None:
            if info.proprio_names or width > 1:
                raise UserError(f"the message has no proprio, {width} numbers")
            return np.zeros(width, np.float32)  # as in data without proprio
        try:
            return np.asarray(measured, np.float32)
        except (TypeError, ValueError):
            raise UserError(f"proprio is {measured!r:.60}: it must be {width} numbers") from None

    def _held(self) -> Array:
        held = self.agent.perception.held
        if held is None:
            raise UserError(f"{LATE}; no hold action is declared")
        action: Array = held.float().cpu().numpy().reshape(1, -1)
        return action

    def _image(self, image: Any, name: str) -> Array:
        if not isinstance(image, np.ndarray):
            raise UserError(f"{name} is a {type(image).__name__}: it must be an array [H, W, 3]")
        (pixels,) = checked_images([image], name)
        return self.fit.image(pixels)
