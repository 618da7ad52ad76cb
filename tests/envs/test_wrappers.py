"""The wrappers, on bundled environments and on another one."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from make import Make

from envs.task import Task
from envs.wrappers import (
    FrameHistory,
    GoalImage,
    LatentObservation,
    OneHotActions,
    PixelsAndProprio,
    StateInInfo,
    has_pixels_and_proprio,
)


class Counter(gym.Env[dict[str, Any], np.ndarray]):
    """An environment of another package: pixels and proprio show the number of steps taken."""

    metadata = {"render_modes": []}

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            pixels=spaces.Box(0, 255, (4, 6, 3), np.uint8),
            proprio=spaces.Box(0.0, 100.0, (1,), np.float32),
            label=spaces.Discrete(100),
        )
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.steps = 0

    def _obs(self) -> dict[str, Any]:
        pixels = np.full((4, 6, 3), self.steps, np.uint8)
        return {"pixels": pixels, "proprio": np.float32([self.steps]), "label": self.steps}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._obs(), {"goal_state": 7}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._obs(), 0.0, False, False, {"goal_state": 7}


def paint(goal_state: int) -> np.ndarray:
    return np.full((4, 6, 3), goal_state, np.uint8)


def encode(pixels: np.ndarray) -> np.ndarray:
    """[B, H, W, 3] -> [B, 2, 3]: mean and maximum of each channel."""
    flat = pixels.reshape(len(pixels), -1, 3)
    return np.stack([flat.mean(1), flat.max(1)], axis=1)


def passes_the_checker(env: gym.Env[Any, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The checker would rather see the bare environment; the wrapper is what we check.
        warnings.filterwarnings("ignore", ".*different from the unwrapped version.*")
        warnings.filterwarnings("ignore", ".*does not have a spec.*|.*not having a spec.*")
        check_env(env)


@pytest.mark.parametrize(
    "wrap",
    [
        GoalImage,
        lambda env: LatentObservation(env, encode),
        FrameHistory,
        lambda env: FrameHistory(LatentObservation(GoalImage(env), encode), 2, 1),
    ],
    ids=["goal", "latent", "history", "all"],
)
def test_our_env_passes_the_checker(make: Make, wrap: Any) -> None:
    passes_the_checker(wrap(make("Maze", image_size=32)))


def test_another_env_passes_the_checker() -> None:
    passes_the_checker(FrameHistory(LatentObservation(GoalImage(Counter(), paint), encode)))


def test_goal_image_shows_the_goal_of_each_episode(make: Make) -> None:
    env = GoalImage(make("PushT", image_size=48))
    first, info = env.reset(seed=0)
    world: Any = env.unwrapped
    np.testing.assert_array_equal(first["goal"], world.render_state(info["goal_state"]))
    obs, *_ = env.step(env.action_space.sample())
    np.testing.assert_array_equal(obs["goal"], first["goal"])
    second, _ = env.reset(seed=1)
    assert not np.array_equal(second["goal"], first["goal"])


def test_goal_image_is_not_shared_with_the_caller(make: Make) -> None:
    env = GoalImage(make("Maze", image_size=32))
    goal = env.reset(seed=0)[0]["goal"]
    kept = goal.copy()
    goal[:] = 0
    np.testing.assert_array_equal(env.step(np.zeros(2, np.float32))[0]["goal"], kept)


def test_goal_image_with_a_renderer_of_ones_own() -> None:
    obs, _ = GoalImage(Counter(), paint).reset()
    assert (obs["goal"] == 7).all()


def test_latents_take_the_place_of_pixels(make: Make) -> None:
    bare = make("PushT", image_size=32)
    pixels = bare.reset(seed=3)[0]["pixels"]
    env = LatentObservation(bare, encode)
    obs, _ = env.reset(seed=3)
    assert set(obs) == {"z", "proprio"}
    assert obs["z"].shape == (2, 3) and obs["z"].dtype == np.float32
    np.testing.assert_allclose(obs["z"], encode(pixels[None])[0], rtol=1e-6)


def test_latents_of_a_torch_encoder() -> None:
    torch = pytest.importorskip("torch")
    env = LatentObservation(Counter(), lambda p: torch.as_tensor(p).float().flatten(1, 2))
    env.reset()
    obs, *_ = env.step(np.zeros(1, np.float32))
    assert (obs["z"] == 1).all() and obs["z"].shape == (24, 3)


def test_frame_history_at_its_skip() -> None:
    env = FrameHistory(Counter(), frames=3, skip=2)
    obs, _ = env.reset()
    assert obs["proprio"].shape == (3, 1) and obs["pixels"].shape == (3, 4, 6, 3)
    seen = [obs["proprio"][:, 0].tolist()]
    for _ in range(6):
        obs, *_ = env.step(np.zeros(1, np.float32))
        assert (obs["pixels"][:, 0, 0, 0] == obs["proprio"][:, 0]).all()
        seen.append(obs["proprio"][:, 0].tolist())
    # The first frame is repeated until there is a past.
    assert seen == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 3], [0, 2, 4], [1, 3, 5], [2, 4, 6]]
    assert obs["label"] == 6  # what is not stacked passes
    assert env.reset()[0]["proprio"][:, 0].tolist() == [0, 0, 0]


def test_frame_history_of_chosen_keys() -> None:
    env = FrameHistory(Counter(), frames=2, keys=["proprio"])
    obs, _ = env.reset()
    assert obs["proprio"].shape == (2, 1) and obs["pixels"].shape == (4, 6, 3)
    assert env.observation_space.contains(obs)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda: GoalImage(gym.make("CartPole-v1")), "needs a Dict"),
        (lambda: LatentObservation(gym.make("CartPole-v1"), encode), "needs a Dict"),
        (lambda: FrameHistory(gym.make("CartPole-v1")), "needs a Dict"),
        (lambda: GoalImage(Counter()), "no render_state"),
        (lambda: GoalImage(GoalImage(Counter(), paint), paint), "already has .*goal"),
        (lambda: GoalImage(Counter(), lambda g: np.zeros((5, 5, 3))).reset(), "goal image has"),
        (lambda: LatentObservation(Counter(), lambda p: np.zeros(4)), "encode returned shape"),
        (lambda: FrameHistory(Counter(), frames=0), "frames is 0"),
        (lambda: FrameHistory(Counter(), skip=-1), "skip is -1"),
        (lambda: FrameHistory(Counter(), keys=["depth"]), "no Box 'depth'.*proprio"),
        (lambda: FrameHistory(Counter(), keys=["label"]), "no Box 'label'"),
        (lambda: FrameHistory(Counter(), keys=[]), "nothing to stack"),
    ],
)
def test_what_cannot_be_wrapped_says_why(wrap: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrap()


def test_encode_that_changes_its_mind() -> None:
    tokens = iter([2, 2, 3])
    env = LatentObservation(Counter(), lambda p: np.zeros((1, next(tokens), 4)))
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(1, 3, 4\) .*expected \(1, 2, 4\)"):
        env.step(np.zeros(1, np.float32))


# ------------------------------------------------------------------------- pixels and proprio
class Rendered(gym.Env[Any, np.ndarray]):
    """Observes a dict of numbers, and renders an image."""

    observation_space = spaces.Dict(a=spaces.Box(-1.0, 1.0, (2,), np.float64), b=spaces.Discrete(3))
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return {"a": np.array([0.5, -0.5]), "b": 1}, {}

    def render(self) -> np.ndarray:
        return np.full((20, 40, 3), 7, np.uint8)


def test_an_environment_that_renders_gets_pixels_and_proprio() -> None:
    env = PixelsAndProprio(Rendered(), 32, proprio_keys="a,b")
    assert not has_pixels_and_proprio(Rendered(), 32) and has_pixels_and_proprio(env, 32)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert obs["proprio"].tolist() == [0.5, -0.5, 0.0, 1.0, 0.0]
    assert (obs["pixels"] == 7).all() and obs["pixels"].shape == (32, 32, 3)


def test_pixels_of_another_size_are_resized() -> None:
    env = PixelsAndProprio(Counter(), 8)
    obs, _ = env.reset()
    assert obs["pixels"].shape == (8, 8, 3) and obs["proprio"].shape == (1,)
    assert env.observation_space.contains(obs)


def test_an_environment_that_shows_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="it shows no pixels"):
        PixelsAndProprio(gym.make("Pendulum-v1"), 32)


class CounterTask(Counter, Task):
    def get_state(self) -> np.ndarray:
        return np.array([float(self.steps)])


def test_the_state_is_added_to_info() -> None:
    env = StateInInfo(CounterTask())
    assert env.reset()[1]["state"].tolist() == [0.0]
    assert env.step(np.zeros(1, np.float32))[4]["state"].tolist() == [1.0]
    with pytest.raises(ValueError, match="no envs.task.Task"):
        StateInInfo(Counter())


# Choices -----------------------------------------------------------------------------------------


class Choosing(Counter):
    """Reports the action that it was given."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.action_space = space  # type: ignore[assignment]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return *super().step(action)[:4], {"action": np.ravel(action).tolist()}


@pytest.mark.parametrize(
    ("space", "vector", "action", "one_hot"),
    [
        (spaces.Discrete(3, start=-1), [0.1, 0.2, 0.9], [1], [0, 0, 1]),
        (spaces.Discrete(2), [0.5, 0.5], [0], [1, 0]),
        (spaces.MultiDiscrete([2, 3]), [0.3, 0.4, 0.9, 0.1, 0.8], [1, 0], [0, 1, 1, 0, 0]),
        (spaces.MultiDiscrete([[2, 2]]), [0, 1, 1, 0], [1, 0], [0, 1, 1, 0]),
    ],
)
def test_choices_are_vectors_and_back(
    space: Any, vector: list[float], action: list[int], one_hot: list[int]
) -> None:
    env = OneHotActions(Choosing(space))
    env.reset(seed=0)
    assert env.action_space == spaces.Box(0.0, 1.0, (len(vector),), np.float32)
    assert env.step(np.float32(vector))[4]["action"] == action
    assert env.one_hot_action(np.float32(vector)).tolist() == one_hot
    own = np.reshape(action, space.shape)
    assert env.one_hot_action(own).tolist() == one_hot
    assert env.step(env.one_hot_action(own))[4]["action"] == action
    with pytest.raises(ValueError, match="it must be of"):
        env.one_hot_action(own + 7)


def test_other_actions_are_no_choices() -> None:
    with pytest.raises(ValueError, match="choices are Discrete or MultiDiscrete"):
        OneHotActions(Counter())
