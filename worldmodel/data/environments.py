"""Making environments by id, with observations of pixels and proprioception."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from worldmodel.errors import UserError

VIEW = ("pixels_key", "proprio_keys", "fit", "success")
"""Arguments of `PixelsAndProprio` and `ObservedTask` among those of an environment. They are stored
with datasets and checkpoints as the others are."""
VIEW_FLAGS = {name: f"env_kwargs.{name}" for name in VIEW}
"""Short flags for them."""


def create_env(
    env_id: str, env_kwargs: Mapping[str, Any], image_size: int, max_steps: int
) -> gym.Env[Any, Any]:
    """An environment whose observations are ``pixels`` and ``proprio`` and whose ``info`` has the
    ``state``; see `envs.wrappers`. One without a task gets `envs.observed_task.ObservedTask`.

    Args:
        env_id: Gymnasium id. ``my_package:MyEnv-v0`` imports ``my_package`` first.
        env_kwargs: arguments of the environment, and those of `VIEW`, which say how it is seen.
        image_size: height and width of images, pixels. Environments that take an argument
            ``image_size`` render at this size; other images are resized.
        max_steps: episodes are truncated after this many steps.

    Raises:
        UserError: no such environment, wrong arguments, or nothing to render.
    """
    import envs  # noqa: F401  (registers the bundled environments)
    from envs.observed_task import ObservedTask
    from envs.task import find_task, has_state
    from envs.wrappers import (
        OneHotActions,
        PixelsAndProprio,
        StateInInfo,
        has_pixels_and_proprio,
    )

    if not env_id:
        raise UserError("no environment is named, as data converted from recordings has none")
    try:
        module, _, name = env_id.rpartition(":")
        if module:
            importlib.import_module(module)
        entry = gym.spec(name).entry_point
        creator = gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    except (gym.error.Error, ImportError, AttributeError) as error:
        known = ", ".join(sorted(name for name in gym.registry if name.startswith("worldmodel/")))
        raise UserError(f"no environment {env_id!r} ({error}); bundled are {known}") from None
    accepted = inspect.signature(creator).parameters if creator is not None else {}
    view = {name: str(env_kwargs[name]) for name in VIEW if name in env_kwargs}
    kwargs = {name: value for name, value in env_kwargs.items() if name not in VIEW}
    if "image_size" in accepted:
        kwargs.setdefault("image_size", image_size)
    if "render_mode" in accepted or any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        kwargs.setdefault("render_mode", "rgb_array")
    try:
        env: gym.Env[Any, Any] = gym.make(
            name, max_episode_steps=max_steps, disable_env_checker=True, **kwargs
        )
        observed = None
        if find_task(env) is None:
            if isinstance(env.action_space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
                env = OneHotActions(env)
            env = observed = ObservedTask(env, view.pop("success", ""))
        elif "success" in view:
            raise ValueError("its task says what a success is: leave --success out")
        if view or not has_pixels_and_proprio(env, image_size):
            env = seen = PixelsAndProprio(env, image_size, **view)
            if observed is not None:
                observed.shows, observed.proprio_names = seen.image, seen.proprio_names
        return StateInInfo(env) if has_state(env) else env
    except (TypeError, ValueError, gym.error.Error, ImportError) as error:
        raise UserError(f"cannot make {env_id} with {dict(env_kwargs)}: {error}") from None
