"""Environments for evaluation, and whether a checkpoint fits one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from envs.task import Task, task_of
from worldmodel.data.environments import VIEW, create_env
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.data.dataset import Dataset
    from worldmodel.models.checkpoint import CheckpointInfo


def make_env(
    env_id: str,
    env_kwargs: Mapping[str, Any],
    image_size: int = 112,
    max_steps: int = 10**6,
    judged: bool = True,
) -> gym.Env[Any, Any]:
    """An environment with a `envs.task.Task`; the arguments are those of `create_env`.

    Args:
        env_id, env_kwargs, image_size, max_steps: as of `create_env`.
        judged: whether goals are sampled or success is measured.

    Raises:
        UserError: no such environment, wrong arguments, or the task lacks something.
    """
    env = create_env(env_id, env_kwargs, image_size, max_steps)
    try:
        task = task_of(env)
    except ValueError as error:
        raise UserError(str(error)) from None
    if judged and task.unready:
        raise UserError(f"{env_id}: {task.unready}")
    return env


def view_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments of an environment that say how it is seen: see `VIEW`."""
    return {name: kwargs[name] for name in VIEW if name in kwargs}


def chosen_kwargs(given: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an environment: those that are given, else those stored with a checkpoint or a
    goal. How it is seen is taken from both."""
    return {**(stored if given == view_of(given) else view_of(stored)), **given}


def same_env(one: str, other: str) -> bool:
    """Whether two ids mean the same environment; a module to import, as in
    "envs:worldmodel/...", makes no difference."""
    return one.rpartition(":")[2] == other.rpartition(":")[2]


def check_fits(env: gym.Env[Any, Any], info: CheckpointInfo) -> None:
    """Check that a checkpoint was trained for `env`.

    Raises:
        UserError: it was trained for another environment, other actions or other proprioception.
    """
    assert env.spec is not None
    if not (same_env(env.spec.id, info.env_id) or _wraps(env, info.env_id)):
        raise UserError(f"this checkpoint is for {info.env_id}, not for {env.spec.id}")
    box: Any = env.action_space
    spec = info.spec
    if not all(
        np.shape(ours) == np.shape(theirs) and np.allclose(ours, theirs)
        for ours, theirs in ((spec.action_low, box.low), (spec.action_high, box.high))
    ):
        raise UserError(
            f"this checkpoint was trained with actions from {list(spec.action_low)} to "
            f"{list(spec.action_high)}, but {env.spec.id} has {box.low.tolist()} to "
            f"{box.high.tolist()}: train again"
        )
    width = env.observation_space["proprio"].shape[0]  # type: ignore[index]
    if width != len(spec.proprio_mean):
        raise UserError(
            f"this checkpoint was trained with {len(spec.proprio_mean)} numbers of proprio, but "
            f"{env.spec.id} has {width}: train again"
        )


def dataset_task(dataset: Dataset) -> Task:
    """The task of a dataset's environment, for reading quantities from recorded states. Where the
    environment has none, or cannot be made here, one whose readings are the numbers of a state."""
    try:
        env = make_env(dataset.env_id, dataset.env_kwargs, dataset.pixels_shape[0])
    except UserError:
        task = Task()
        assert dataset.state is not None
        task.state_names = dataset.state_names or tuple(map(str, range(dataset.state.shape[1])))
        return task
    env.close()
    found: Task = task_of(env)
    return found


def _wraps(env: gym.Env[Any, Any], env_id: str) -> bool:
    """Whether `env` is the environment `env_id` under wrappers, such as one that adds a task."""
    base = type(env.unwrapped)
    spec = gym.registry.get(env_id.rpartition(":")[2])
    return spec is not None and spec.entry_point in (base, f"{base.__module__}:{base.__name__}")
