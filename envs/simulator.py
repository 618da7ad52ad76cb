"""A simulator whose state can be read and set, as a Gymnasium environment with a `Task`.

A subclass says how the simulator starts, moves and looks. This module does the rest: observations,
info, exact resets, and looking at other states without disturbing the episode. The simulator may
come from another package: see `envs.worlds`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from envs.task import Task
from envs.variations import variation_names

Array = NDArray[Any]
Obs = dict[str, Any]


class SimulatorEnv(gym.Env[Obs, Array], Task):
    """Observation: ``pixels`` uint8 ``[S, S, 3]`` and ``proprio`` float32 ``[Dp]``. ``info`` has
    ``state`` float64 ``[Ds]``. Nothing ends an episode.

    ``reset(options={"state": ...})`` starts from a state. With ``"goal_state"``, ``info`` has
    ``goal_state`` and ``is_success`` as well, and the reward is 1 on success; else it is 0.

    Args:
        low, high: bounds of actions ``[A]``.
        image_size: height and width S of images, pixels.
        render_mode: ``"rgb_array"`` or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    action_space: spaces.Box

    def __init__(
        self,
        low: ArrayLike,
        high: ArrayLike,
        image_size: int = 112,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}; this environment has 'rgb_array'")
        if not 16 <= int(image_size) <= 1024:
            raise ValueError(f"image_size is {image_size}; choose 16 to 1024 pixels")
        self.render_mode = render_mode
        self.image_size = int(image_size)
        self.action_space = spaces.Box(
            np.asarray(low, np.float32), np.asarray(high, np.float32), dtype=np.float32
        )
        self._goal: Array | None = None
        far = self.proprio_bound
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (self.image_size, self.image_size, 3), np.uint8),
                "proprio": spaces.Box(-far, far, (len(self.proprio_names),), np.float32),
            }
        )

    # What a subclass defines, beside `Task` -------------------------------------------------

    proprio_bound: float = 1000.0
    """No value of proprio comes near it; Gymnasium's checker wants finite bounds."""

    def begin(self, seed: int | None) -> None:
        """Put the simulator into a random state; `seed` as in Gymnasium's ``reset``."""
        raise NotImplementedError

    def set_state(self, state: Array) -> None:
        """Put the simulator into `state` ``[Ds]`` and update all derived quantities."""
        raise NotImplementedError

    def advance(self, action: Array) -> None:
        """Simulate one action ``[A]``, within the bounds."""
        raise NotImplementedError

    def proprio(self) -> Array:
        """What the robot measures of itself, ``[Dp]``. By default, the numbers of the state that
        `proprio_names` names; "cos NAME" and "sin NAME" are the cosine and sine of one."""
        values = dict(zip(self.state_names, self.get_state(), strict=True))
        waves = {"cos": np.cos, "sin": np.sin}
        values |= {f"{w} {name}": f(x) for w, f in waves.items() for name, x in values.items()}
        if unknown := [name for name in self.proprio_names if name not in values]:
            raise ValueError(
                f"proprio has no {unknown[0]!r}; the state has {', '.join(self.state_names)}"
            )
        return np.array([values[name] for name in self.proprio_names])

    def render(self) -> Array:  # type: ignore[override]
        """The camera image, uint8 ``[S, S, 3]``."""
        raise NotImplementedError

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore the simulator at the end of the ``with`` block. Override it where a state is only
        a part of what the simulator remembers."""
        state = self.get_state()
        try:
            yield
        finally:
            self.set_state(state)

    # Gymnasium -----------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode; `options` may hold ``state`` and ``goal_state``, both ``[Ds]``."""
        super().reset(seed=seed)
        options = options or {}
        variation_names(options, self.variations, type(self).__name__)  # refuses what is unknown
        self.begin(seed)
        if "state" in options:
            self.set_state(self._checked(options["state"], "state"))
        goal = options.get("goal_state")
        self._goal = None if goal is None else self._checked(goal, "goal_state")
        return self._observe(), self._info()

    def step(self, action: Array) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Apply one action ``[A]``, clipped to the bounds."""
        self.advance(self._clipped(action))
        info = self._info()
        return self._observe(), float(info.get("is_success", 0.0)), False, False, info

    # Task ----------------------------------------------------------------------------------

    def render_state(self, state: ArrayLike) -> Array:
        pixels: Array = self.observe_state(state)["pixels"]
        return pixels

    def observe_state(self, state: ArrayLike) -> Obs:
        with self.preserved():
            self.set_state(self._checked(state, "state"))
            return self._observe()

    def physics(self, state: ArrayLike, actions: Array) -> Array:
        with self.preserved():
            self.set_state(self._checked(state, "state"))
            states = [self.get_state()]
            for action in actions:
                self.advance(self._clipped(action))
                states.append(self.get_state())
        return np.stack(states)

    def success(self, state: Array, goal: Array) -> bool:
        """Whether the `distance` is below 1."""
        return bool(self.distance(state, goal) < 1)

    def sample_task(self, env_seed: int, goal_offset: int) -> tuple[Array, Array]:
        """Where `goal_offset_matters`, see `Task`. Else the states of two resets: every goal can be
        reached from every start."""
        if self.goal_offset_matters:
            return super().sample_task(env_seed, goal_offset)
        self.reset(seed=env_seed)
        start = self.get_state()
        self.reset()
        return start, self.get_state()

    def hold(self, obs: Any) -> Array:
        """Zero, or the action closest to it."""
        box = self.action_space
        zero: Array = np.zeros(box.shape, box.dtype).clip(box.low, box.high)
        return zero

    # Shared parts --------------------------------------------------------------------------

    def _clipped(self, action: Array) -> Array:
        """`action` clipped to the bounds."""
        action = np.asarray(action, np.float64)
        box = self.action_space
        if action.shape != box.shape or not np.isfinite(action).all():
            raise ValueError(f"action is {action}; expected {box.shape[0]} finite numbers")
        clipped: Array = np.clip(action, box.low, box.high)
        return clipped

    def _observe(self) -> Obs:
        return {"pixels": self.render(), "proprio": self.proprio().astype(np.float32)}

    def _info(self) -> dict[str, Any]:
        state = self.get_state()
        if self._goal is None:
            return {"state": state}
        success = bool(self.success(state, self._goal))
        return {"state": state, "goal_state": self._goal.copy(), "is_success": success}

    def _checked(self, state: ArrayLike, name: str) -> Array:
        array = np.asarray(state, np.float64)
        if array.shape != (len(self.state_names),) or not np.isfinite(array).all():
            raise ValueError(
                f"{name} has shape {array.shape}; {type(self).__name__} expects "
                f"{len(self.state_names)} finite numbers: {', '.join(self.state_names)}"
            )
        return array
