"""Wrappers that add goal images, latents and past frames to observations.

They work for any environment whose observation is a ``Dict`` with ``pixels``, and can be combined::

    env = gym.make("envs:worldmodel/PushT-v0")
    env = FrameHistory(GoalImage(env), frames=3, skip=5)

Nothing here imports torch: a wrapper takes any callable as its encoder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from envs.observation_fields import (
    dotted,
    field,
    flat,
    is_picture,
    number_fields,
    parse_parts,
    part_names,
    robots_own,
    space_fields,
    spelled,
)
from envs.pictures import FITS, as_rgb, resized
from envs.task import find_task

Array = NDArray[Any]
Obs = dict[str, Any]
# Latents have no known bounds. These are finite because Gymnasium's checker wants finite ones.
FAR = 1e6


def has_pixels_and_proprio(env: gym.Env[Any, Any], image_size: int) -> bool:
    """Whether observations are already as `PixelsAndProprio` makes them."""
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or not {"pixels", "proprio"} <= space.spaces.keys():
        return False
    pixels, proprio = space["pixels"], space["proprio"]
    shape = (image_size, image_size, 3)
    return (pixels.shape, pixels.dtype) == (shape, np.uint8) and len(proprio.shape or ()) == 1


class PixelsAndProprio(gym.ObservationWrapper[Obs, Any, Any], RecordConstructorArgs):
    """Makes observations of any environment that shows something: ``pixels``, uint8 ``[S, S, 3]``,
    and ``proprio``, float32 ``[Dp]``.

    Args:
        env: observes images, or renders ``rgb_array``.
        image_size: height and width S of images, pixels.
        pixels_key: field of the images; default: ``pixels``, else the only one that holds images,
            else what ``render`` returns.
        proprio_keys: fields that the robot measures of itself, as "qpos,arm[0:3]", or "none";
            default: ``proprio``, else those whose names say so (see `observation_fields`). Without
            any, proprio is one zero.
        fit: how images that are not square become squares: pad (black borders), crop (the middle)
            or stretch.

    Attributes:
        image_fit: `fit`.
        raw_observation: the environment's latest one.
        proprio_names: of the numbers of proprio.

    Raises:
        ValueError: the environment does not fit, or there is no such field.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        image_size: int,
        pixels_key: str = "",
        proprio_keys: str = "",
        fit: str = "stretch",
    ) -> None:
        RecordConstructorArgs.__init__(
            self, image_size=image_size, pixels_key=pixels_key, proprio_keys=proprio_keys, fit=fit
        )
        super().__init__(env)
        if fit not in FITS:
            raise ValueError(f"fit is {fit!r}: choose one of {', '.join(FITS)}")
        self._size, self.image_fit = image_size, fit
        self._seen = (image_size, image_size)  # height and width of the latest image
        self.raw_observation: Any = None
        self._pixels = _pixels_field(env, pixels_key)
        self._fields = number_fields(env.observation_space)
        widths = {name: spaces.flatdim(space) for name, space in self._fields.items()}
        if not proprio_keys:
            own = ["proprio"] if "proprio" in widths else robots_own(widths)
            proprio_keys = ",".join(own)
        self._proprio = parse_parts(proprio_keys, widths)
        self._others = [n for n in widths if n not in {name for name, _ in self._proprio}]
        self.proprio_names = part_names(self._proprio)
        image = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        width = max(1, len(self.proprio_names))
        vector = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.observation_space = spaces.Dict({"pixels": image, "proprio": vector})

    def observation(self, observation: Any) -> Obs:
        """The observation as ``pixels`` and ``proprio``."""
        self.raw_observation = observation
        parts = [
            flat(self._fields[name], field(observation, name))[part] for name, part in self._proprio
        ]
        vector = np.concatenate(parts) if parts else np.zeros(1)
        return {
            "pixels": resized(self.image(observation), self._size, self.image_fit),
            "proprio": vector.astype(np.float32),
        }

    def image(self, observation: Any) -> Array:
        """The image of an observation, uint8 ``[H, W, 3]``."""
        found: Any = field(observation, self._pixels) if self._pixels else self.env.render()
        (image,) = as_rgb([np.asarray(found)], self._pixels or "render()")
        self._seen = image.shape[:2]
        return image

    def sentence(self) -> str:
        """What is taken of observations, in words; and what is done to images that are not square,
        once one was seen."""
        taken = ", ".join(map(spelled, self._proprio)) or "none"
        text = f"pixels: {self._pixels or 'what render() shows'}"
        height, width = self._seen
        if height != width:
            others = " or ".join(f"--fit {fit}" for fit in FITS if fit != self.image_fit)
            text += f", {width} x {height}, {FITS[self.image_fit]} to a square (else {others})"
        text += f"; proprio: {taken}"
        if self._others:
            text += f" (--proprio_keys can name {', '.join(self._others)})"
        return text


def _pixels_field(env: gym.Env[Any, Any], wanted: str) -> str:
    """The field of the images, "" for `render`."""
    fields = space_fields(env.observation_space)
    found = [n for n, space in fields.items() if is_picture(space) or n == "pixels"]
    if wanted:
        if dotted(wanted) not in found:
            raise ValueError(f"no images in {wanted!r}: there are {', '.join(found) or 'none'}")
        return dotted(wanted)
    if "pixels" in found or len(found) == 1:
        return "pixels" if "pixels" in found else found[0]
    if env.render_mode == "rgb_array":
        return ""
    if found:
        raise ValueError(f"several fields hold images: choose --pixels_key {' or '.join(found)}")
    raise ValueError(
        "it shows no pixels: it needs render_mode='rgb_array' or an observation with images"
    )


class OneHotActions(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Makes actions that are choices (`Discrete`, `MultiDiscrete`) vectors in a Box ``[A]``: a
    choice among n options is n numbers, 1 for the option that is chosen and 0 for the others. Any
    other vector chooses the option with the largest number.

    Args:
        env: its actions are choices.

    Attributes:
        action_choices: how many options each choice has; they sum to A.

    Raises:
        ValueError: its actions are something else.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space: Any = env.action_space
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            raise ValueError(f"actions are {space}: choices are Discrete or MultiDiscrete")
        counts = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
        self.action_choices = tuple(int(count) for count in counts)
        self._ends = np.cumsum(self.action_choices)
        self.action_space = spaces.Box(0.0, 1.0, (int(self._ends[-1]),), np.float32)

    def action(self, action: Any) -> Any:
        """The environment's own action, from a vector ``[A]``."""
        space: Any = self.env.action_space
        chosen = [int(part.argmax()) for part in np.split(np.asarray(action), self._ends[:-1])]
        return (np.reshape(chosen, space.shape) + space.start).astype(space.dtype)

    def one_hot_action(self, action: Any) -> Array:
        """The vector ``[A]`` of the same choices as an action, float32.

        Args:
            action: the environment's own, or a vector.

        Raises:
            ValueError: it is neither.
        """
        space: Any = self.env.action_space
        if np.shape(action) == self.action_space.shape:
            action = self.action(action)
        own = np.asarray(action)
        if own.shape != space.shape or not space.contains(own.astype(space.dtype)):
            raise ValueError(f"the action is {action!r:.60}: it must be of {space}")
        chosen = np.ravel(own - space.start).astype(int)
        vector = np.zeros(sum(self.action_choices), np.float32)
        vector[self._ends - self.action_choices + chosen] = 1.0
        return vector


class StateInInfo(gym.Wrapper[Obs, Any, Obs, Any], RecordConstructorArgs):
    """Adds ``state`` to ``info``, from the environment's task. One that is there already stays,
    unless success is measured by an `ObservedTask`, which has states of its own.

    Args:
        env: has a `envs.task.Task`.

    Raises:
        ValueError: it has none.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._task = find_task(env)
        if self._task is None:
            raise ValueError(f"{env} has no envs.task.Task")
        self._keeps = self._task.settable or bool(self._task.unready)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Reset, and add the state."""
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, self._with_state(info)

    def step(self, action: Any) -> tuple[Obs, Any, bool, bool, dict[str, Any]]:
        """Step, and add the state."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, self._with_state(info)

    def _with_state(self, info: dict[str, Any]) -> dict[str, Any]:
        if self._keeps and "state" in info:
            return info
        return {**info, "state": self._task.get_state()}


class GoalImage(gym.Wrapper[Obs, Any, Obs, Any], RecordConstructorArgs):
    """Adds the goal image to the observation, as ``goal``, uint8 ``[H, W, 3]``.

    It is rendered at reset, from ``info["goal_state"]``.

    Args:
        env: its observation is a Dict with ``pixels``, its info has ``goal_state``.
        render: goal_state -> image of the shape of ``pixels``; default: ``render_state`` of the
            environment's `envs.task.Task`.

    Raises:
        ValueError: the environment does not fit, or the image is not shaped as ``pixels`` is.
    """

    def __init__(
        self, env: gym.Env[Obs, Any], render: Callable[[Any], Array] | None = None
    ) -> None:
        RecordConstructorArgs.__init__(self, render=render, _disable_deepcopy=True)
        super().__init__(env)
        self._box = _box_of(env, "pixels")
        self._render = render or getattr(find_task(env), "render_state", None)
        if self._render is None:
            raise ValueError(
                f"{env} has no render_state(): pass GoalImage(env, render=...), a function from "
                "info['goal_state'] to an image"
            )
        self.observation_space = _replace(env, add={"goal": self._box})
        self._goal: Array = np.zeros(self._box.shape, self._box.dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Reset, and render the new goal."""
        obs, info = self.env.reset(seed=seed, options=options)
        if "goal_state" not in info:
            raise ValueError(f"info has no 'goal_state' after reset; it has {sorted(info)}")
        assert self._render is not None
        self._goal = np.asarray(self._render(info["goal_state"]), self._box.dtype)
        if self._goal.shape != self._box.shape:
            raise ValueError(
                f"the goal image has shape {self._goal.shape}, but pixels have {self._box.shape}"
            )
        return {**obs, "goal": self._goal.copy()}, info

    def step(self, action: Any) -> tuple[Obs, Any, bool, bool, dict[str, Any]]:
        """Step; the goal image stays the same."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return {**obs, "goal": self._goal.copy()}, reward, terminated, truncated, info


class LatentObservation(gym.ObservationWrapper[Obs, Any, Obs], RecordConstructorArgs):
    """Replaces ``pixels`` by their latents ``z``, float32 ``[P, D]``.

    Args:
        env: its observation is a Dict with ``pixels``.
        encode: pixels uint8 ``[1, H, W, 3]`` -> latents ``[1, P, D]``, an array or a CPU tensor.
            One call with a black image determines P and D.

    Raises:
        ValueError: the environment does not fit, or ``encode`` returns something else.
    """

    def __init__(self, env: gym.Env[Obs, Any], encode: Callable[[Array], Any]) -> None:
        RecordConstructorArgs.__init__(self, encode=encode, _disable_deepcopy=True)
        super().__init__(env)
        self._encode = encode
        pixels = _box_of(env, "pixels")
        self._shape: tuple[int, ...] | None = None
        self._shape = self._latents(np.zeros(pixels.shape, pixels.dtype)).shape
        z = spaces.Box(-FAR, FAR, self._shape, np.float32)
        self.observation_space = _replace(env, add={"z": z}, drop="pixels")

    def observation(self, observation: Obs) -> Obs:
        """The observation with ``z`` in place of ``pixels``."""
        rest = {key: value for key, value in observation.items() if key != "pixels"}
        return {**rest, "z": self._latents(observation["pixels"])}

    def _latents(self, pixels: Array) -> Array:
        z = np.asarray(self._encode(pixels[None]), np.float32)
        if z.ndim != 3 or len(z) != 1 or self._shape not in (None, z.shape[1:]):
            expected = "[1, P, D]" if self._shape is None else (1, *self._shape)
            raise ValueError(f"encode returned shape {z.shape} for one image; expected {expected}")
        return z[0]


class FrameHistory(gym.Wrapper[Obs, Any, Obs, Any], RecordConstructorArgs):
    """Stacks past observations along a new first axis, from the oldest to the current one.

    With ``frames=3, skip=5``, the observation of step t holds those of steps t-10, t-5 and t, which
    is the input of a model with context 3 and frameskip 5. Before the first step, the observation
    of the reset is repeated.

    Args:
        env: its observation is a Dict.
        frames: number of observations.
        skip: environment steps between two of them.
        keys: entries to stack; default: those of ``pixels``, ``z`` and ``proprio`` that are there.

    Raises:
        ValueError: ``frames`` or ``skip`` is below 1, or there is no such entry.
    """

    def __init__(
        self,
        env: gym.Env[Obs, Any],
        frames: int = 3,
        skip: int = 5,
        keys: Sequence[str] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, frames=frames, skip=skip, keys=keys)
        super().__init__(env)
        for name, value in (("frames", frames), ("skip", skip)):
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} is {value!r}; use a whole number from 1 up")
        present = _dict_of(env).spaces
        usual: tuple[str, ...] = ("pixels", "z", "proprio")
        self._keys = [key for key in usual if key in present] if keys is None else list(keys)
        if not self._keys:
            raise ValueError(f"nothing to stack: name some of {sorted(present)} in keys")
        self._frames, self._skip = int(frames), int(skip)
        self._past: deque[Obs] = deque(maxlen=(self._frames - 1) * self._skip + 1)
        stacked: dict[str, spaces.Space[Any]] = {}
        for key in self._keys:
            box = _box_of(env, key)
            low, high = (np.repeat(b[None], frames, axis=0) for b in (box.low, box.high))
            stacked[key] = spaces.Box(low, high, dtype=box.dtype.type)  # type: ignore[arg-type]
        self.observation_space = _replace(env, add=stacked, overwrite=True)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Reset, and clear the history."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._past.clear()
        return self._stacked(obs), info

    def step(self, action: Any) -> tuple[Obs, Any, bool, bool, dict[str, Any]]:
        """Step, and append to the history."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._stacked(obs), reward, terminated, truncated, info

    def _stacked(self, obs: Obs) -> Obs:
        self._past.append(obs)
        last = len(self._past) - 1
        ages = [self._skip * age for age in reversed(range(self._frames))]
        seen = [self._past[max(0, last - age)] for age in ages]
        return {**obs, **{key: np.stack([frame[key] for frame in seen]) for key in self._keys}}


def _dict_of(env: gym.Env[Any, Any]) -> spaces.Dict:
    space = env.observation_space
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"{env} observes {space}; this wrapper needs a Dict, with 'pixels' in it")
    return space


def _box_of(env: gym.Env[Any, Any], key: str) -> spaces.Box:
    """The Box under ``key`` of a Dict observation."""
    box = _dict_of(env).spaces.get(key)
    if not isinstance(box, spaces.Box):
        known = sorted(_dict_of(env).spaces)
        raise ValueError(f"the observation has no Box {key!r}; it has {known}")
    return box


def _replace(
    env: gym.Env[Any, Any],
    add: Mapping[str, spaces.Space[Any]],
    drop: str | None = None,
    overwrite: bool = False,
) -> spaces.Dict:
    """The observation space of ``env`` with entries added and one dropped."""
    old = _dict_of(env).spaces
    taken = sorted(set(add) & set(old))
    if taken and not overwrite:
        raise ValueError(f"the observation already has {taken}: is the environment wrapped twice?")
    return spaces.Dict({**{key: old[key] for key in old if key != drop}, **add})
