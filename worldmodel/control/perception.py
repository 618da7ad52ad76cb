"""Perception: from observations to latents, with the past of the episode."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from planners import Trajectory
from worldmodel.control.hold import Hold
from worldmodel.control.inference import Inference
from worldmodel.control.memory import Memory
from worldmodel.control.observations import (
    check_action,
    check_observation,
    check_pixels,
    check_reach,
    split_observation,
)
from worldmodel.control.stale_frames import StaleFrames
from worldmodel.control.surprise import SurpriseTracker, UsualErrors, prediction_errors
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo

Array = NDArray[Any]


class Perception:
    """Encodes observations, remembers them, and detects stale frames and surprises.

    Args:
        inference: encoder and world model.
        info: the rest of the checkpoint.
        hold: the hold action.
        usual_errors: what the prediction errors are compared with; None: they are not computed.
        alarm: p-value below which an observation is a surprise.
        look: environment steps between frames that are encoded.

    Attributes:
        goal: latents ``[N, P, D]`` and proprio ``[N, Dp]`` of the present goals: one of each
            episode (N = E), or several of one episode, any of which will do.
        next_goals: goals of one episode that come after the present one.
        any_goal: whether the present goals are several of one episode.
        distances: squared latent distances of the latest encoded frame to them, ``[N]``.
        held: the hold action after the latest observation, ``[E, A]``, or None if undeclared.
        stale: whether the latest frame is stale, bool ``[E]``.
        surprise: p-values of prediction errors.
        encode_ms: time of the latest encoding.
    """

    def __init__(
        self,
        inference: Inference,
        info: CheckpointInfo,
        hold: Hold,
        usual_errors: UsualErrors | None,
        alarm: float,
        look: int,
    ) -> None:
        self.inference, self.info, self.hold = inference, info, hold
        self.layout = hold.layout
        self.usual_errors, self.alarm, self.look = usual_errors, alarm, look
        self.goal: Trajectory | None = None
        self.next_goals: list[Trajectory] = []
        self.any_goal = False
        self.episodes, self.batched = 0, False
        self.held: Tensor | None = None
        self.stale = torch.empty(0, dtype=torch.bool)
        self.surprise = SurpriseTracker(alarm, self.layout.frameskip, 0)
        self.distances = torch.empty(0)
        self.encode_ms = 0.0

    def reset(self, goals: Array, last_action: ArrayLike | None, reach: str | None = None) -> None:
        """Begin episodes: see `Agent.reset`.

        Raises:
            UserError: `goals` are not images, `last_action` is no action, or `reach` is unknown.
        """
        goals = check_pixels(goals, "goal")
        self.any_goal = reach is not None and check_reach(reach) == "any"
        self.batched = goals.ndim == 4 and reach is None
        self.episodes = episodes = len(goals) if self.batched else 1
        self._last_action: Tensor | None = None
        if last_action is not None:
            checked = check_action(last_action, (episodes, len(self.layout.low)))
            self._last_action = checked.to(self.inference.device)
        z = self.inference.encode(goals if goals.ndim == 4 else goals[None])
        # The proprioception at the goal is unknown: the model reads it off the image.
        proprio = self.inference.read_proprio(z)
        self.next_goals = []
        if reach == "each":
            in_order = zip(z.split(1), proprio.split(1), strict=True)
            self.goal, *self.next_goals = (Trajectory(*each) for each in in_order)
        else:
            self.goal = Trajectory(z, proprio)
        self._memory: Memory | None = None  # begins with the first observation
        self._stale_frames = StaleFrames(self.info.readable, self.inference.model.proprio_std)
        self.held = None
        self.stale = torch.zeros(episodes, dtype=torch.bool)
        self.surprise = SurpriseTracker(self.alarm, self.layout.frameskip, episodes)
        self.distances = torch.empty(0)

    @property
    def distance(self) -> Tensor:
        """Squared latent distance of the latest encoded frame to the goal, ``[E]``; to the nearest
        where any goal will do."""
        return self.distances.amin(0, keepdim=True) if self.any_goal else self.distances

    def observe(self, obs: Mapping[str, Array]) -> None:
        """Take in an observation.

        Raises:
            UserError: `obs` is not one, or `reset` was never called.
        """
        if self.goal is None:
            raise UserError("the agent has no goal yet: call agent.reset(goal_pixels) first")
        width = len(self.info.spec.proprio_mean)
        pixels, measured = check_observation(obs, self.episodes, self.batched, width)
        proprio = torch.from_numpy(measured).to(self.inference.device)
        last = self._last_action if self._memory is None else self._memory.last_action
        self.held = self.hold.actions(split_observation(obs, self.episodes, self.batched), last)
        if self._memory is None:
            self._memory = self._new_memory()
        if self._memory.steps % self.look == 0:
            begun = time.perf_counter()
            z = self.inference.encode(pixels)
            self._memory.add_frame(z, proprio)
            self.distances = self.inference.model.distance(z, self.goal.z).cpu()
            if self.next_goals and self.distances[0] <= self.info.near:
                self.goal = self.next_goals.pop(0)
                self.distances = self.inference.model.distance(z, self.goal.z).cpu()
            self.encode_ms = (time.perf_counter() - begun) * 1e3
            if self.usual_errors and self._memory.steps:
                errors = prediction_errors(self.inference, self._memory, Trajectory(z, proprio))
                self.surprise.update(self.usual_errors, errors)
        self.stale = self._stale_frames.update(pixels, proprio)

    @property
    def memory(self) -> Memory:
        """The past of the episode."""
        if self.goal is None or self._memory is None:
            raise UserError("there is no observation yet: call agent.observe(obs) or act(obs)")
        return self._memory

    @property
    def planned_hold(self) -> Tensor | None:
        """The hold action as the values of a model step, ``[E, F/repeat*A]`` (``[F/repeat*A]``
        before the first observation), or None where there is none."""
        hold = self.hold.fixed if self.held is None else self.held
        return None if hold is None else self.layout.planned(hold)

    def _new_memory(self) -> Memory:
        """A memory that begins with the present observation."""
        context, frameskip = self.inference.model.config.context, self.layout.frameskip
        past = (context - 1) * frameskip
        past += frameskip if self.usual_errors else 0  # for the prediction of the present
        before = self._last_action if self._last_action is not None else self.held
        if before is None:  # as in training
            low, high = self.layout.low, self.layout.high
            before = torch.zeros_like(low).clamp(low, high).expand(self.episodes, -1)
        return Memory(context, frameskip, self.look, past, before)
