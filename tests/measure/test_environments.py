"""Whether a checkpoint fits an environment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest

from envs.maze import MazeEnv
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits


def checkpoint(env_id: str, speed: float = 0.75, proprio: int = 4) -> Any:
    bounds = ((-speed,) * 2, (speed,) * 2)
    spec = SimpleNamespace(
        action_low=bounds[0], action_high=bounds[1], proprio_mean=(0.0,) * proprio
    )
    return SimpleNamespace(env_id=env_id, spec=spec)


def wrapped_maze(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.Wrapper(MazeEnv(**kwargs))


def test_a_checkpoint_fits_its_environment_also_under_a_wrapper() -> None:
    gym.register("WrappedMaze-v0", entry_point=wrapped_maze)
    env = gym.make("WrappedMaze-v0", image_size=16)
    check_fits(env, checkpoint("WrappedMaze-v0"))
    check_fits(env, checkpoint("my_package:WrappedMaze-v0"))
    check_fits(env, checkpoint("worldmodel/Maze-v0"))
    with pytest.raises(UserError, match="is for worldmodel/PushT-v0, not for WrappedMaze-v0"):
        check_fits(env, checkpoint("worldmodel/PushT-v0"))
    with pytest.raises(UserError, match="trained with actions from"):
        check_fits(env, checkpoint("worldmodel/Maze-v0", speed=1.0))
    with pytest.raises(UserError, match="trained with 3 numbers of proprio"):
        check_fits(env, checkpoint("worldmodel/Maze-v0", proprio=3))
    env.close()
