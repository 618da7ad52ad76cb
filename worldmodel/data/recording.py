"""Recording one episode of any Gymnasium environment that renders."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldmodel.data.environments import VIEW_FLAGS, create_env
from worldmodel.errors import UserError

Array = NDArray[Any]
FORMAT = 1  # raised when old and new recordings must not be mixed in one folder


@dataclass(frozen=True)
class CollectConfig:
    """What to collect."""

    SHORT: ClassVar = VIEW_FLAGS

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0 or my_package:MyEnv-v0 (imports my_package)."""
    out: Path
    """Folder of the dataset, such as data/pusht. A second call extends or completes it."""
    episodes: int = 200
    """Number of episodes in the complete dataset."""
    steps: int = 100
    """Actions in an episode; fewer where the environment terminates."""
    seed: int = 0
    """Seed of the whole dataset."""
    workers: int = 2
    """Processes. Changes the speed, not the data."""
    policy: str = "explore"
    """Exploration policy: explore, random, another one of the environment's task;
    my_module:make, a function make(env, rng) that returns a policy(obs, info) -> action; or
    PPO:ppo.zip, which Stable-Baselines3 trained."""
    image_size: int = 112
    """Height and width of the recorded images, pixels."""
    hold: str = ""
    """The action that keeps the robot where it is: zero; repeat (the last action again, for
    absolute position targets); or its numbers, such as 0,0.1. Default: what the environment's
    task says."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, such as --env_kwargs.layout U. --pixels_key and --proprio_keys
    name the fields of its observation that are the image, and what the robot measures of itself.
    --fit pad, crop or stretch (the default) makes images square."""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("steps", 1), ("workers", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if not 8 <= self.image_size <= 1024:
            raise UserError(f"image_size is {self.image_size}: choose 8 to 1024 pixels")

    def identity(self) -> dict[str, Any]:
        """The settings that determine the content of an episode."""
        names = ("env", "env_kwargs", "steps", "seed", "policy", "image_size")
        return {"format": FORMAT, **{name: asdict(self)[name] for name in names}}


class Recorder:
    """An environment whose observations are reduced to pixels and proprioception.

    Raises:
        UserError: no such environment, wrong arguments, no Box actions, or nothing to render.
    """

    def __init__(self, config: CollectConfig) -> None:
        self.config = config
        self.env = create_env(config.env, config.env_kwargs, config.image_size, config.steps)
        if not isinstance(self.env.action_space, gym.spaces.Box):
            raise UserError(
                f"{config.env} has actions {self.env.action_space}: only Box, Discrete and "
                "MultiDiscrete will do; with a Task, only Box"
            )
        self.choices: tuple[int, ...] = self._declared("action_choices", ())
        self.fit: str = self._declared("image_fit", "stretch")
        for i, (low, high) in enumerate(zip(*map(np.ravel, self._bounds()), strict=True)):
            if not -np.inf < low < high < np.inf:
                raise UserError(
                    f"{config.env}: number {i} of an action is bounded by {low:g} and {high:g}; "
                    "planners need finite bounds that differ: register the environment with such, "
                    "or wrapped in gymnasium.wrappers.TransformAction"
                )

    def record(self, index: int) -> dict[str, Array]:
        """Episode `index`: arrays with T or T + 1 rows, by their name in the file."""
        from envs.exploration import explorer

        config = self.config
        rng = np.random.default_rng([config.seed, index, 1])
        try:
            obs, info = self.env.reset(seed=episode_seed(config.seed, index))
            policy = explorer(self.env, config.policy, rng)
        except ValueError as error:
            raise UserError(f"{config.env}: {error}") from None
        low, high = self._bounds()
        frames, infos = [obs], [info]
        actions, rewards, ends = [], [], []
        over = False
        while not over:
            # Clipped before it is recorded, so that the model sees the action that was executed.
            try:
                action = np.clip(policy(obs, info), low, high).astype(low.dtype)
            except ValueError as error:
                raise UserError(f"policy {config.policy}: {error}") from None
            obs, reward, terminated, truncated, info = self.env.step(action)
            frames.append(obs)
            infos.append(info)
            actions.append(action)
            rewards.append(float(reward))
            ends.append((terminated, truncated))
            over = terminated or truncated
        episode = {
            "observations/pixels": np.stack([obs["pixels"] for obs in frames]),
            "observations/proprio": np.stack([obs["proprio"] for obs in frames]),
            "actions": np.stack(actions),
            "rewards": np.array(rewards),
            "terminations": np.array([bool(end[0]) for end in ends]),
            "truncations": np.array([bool(end[1]) for end in ends]),
        }
        for name, dtype in (("state", np.float64), ("contact", bool), ("is_success", bool)):
            # A missing flag of the first frame counts as False; a missing state as unknown.
            if all(name in info for info in infos if name == "state" or info is not infos[0]):
                values = [np.asarray(info.get(name, False), dtype) for info in infos]
                episode[f"infos/{name}"] = np.stack(values)
        return episode

    def sizes(self) -> tuple[int, gym.spaces.Box]:
        """Numbers of proprio, and the space of actions."""
        proprio: Any = self.env.observation_space["proprio"]  # type: ignore[index]
        assert isinstance(self.env.action_space, gym.spaces.Box)
        return int(proprio.shape[0]), self.env.action_space

    def sentence(self) -> str:
        """What is taken of observations, "" where they are recorded as they are."""
        return str(self._declared("sentence", lambda: "")())

    def names(self, kind: str) -> list[str]:
        """Names of the numbers of a state, an action or proprioception: "state_names", ...; empty
        where neither the environment nor its task declares them."""
        for source in (self._task(), self.env.unwrapped):
            if found := getattr(source, kind, ()):
                return list(found)
        return []

    def hold(self) -> list[float] | str | None:
        """The action that keeps the robot where it is, as a dataset stores it: its numbers,
        "repeat", or None.

        Raises:
            UserError: `config.hold` is not such an action.
        """
        if self.config.hold:
            return parse_hold(self.config.hold, *self._bounds(), self.choices)
        task = self._task()
        if task is None:
            return None
        obs, info = self.env.reset(seed=0)
        first = task.hold(obs)
        self.env.action_space.seed(0)
        for _ in range(min(5, self.config.steps)):
            obs, *_ = self.env.step(self.env.action_space.sample())
        second = task.hold(obs)
        if first is None or second is None or not np.array_equal(first, second):
            return None  # none, or not one constant action
        return [float(x) for x in np.ravel(first)]

    def _declared(self, name: str, otherwise: Any) -> Any:
        """An attribute of a wrapper, where one has it."""
        return self.env.get_wrapper_attr(name) if self.env.has_wrapper_attr(name) else otherwise

    def _task(self) -> Any:
        from envs.task import find_task

        return find_task(self.env)

    def _bounds(self) -> tuple[Array, Array]:
        space = self.env.action_space
        assert isinstance(space, gym.spaces.Box)
        return space.low, space.high


def episode_seed(seed: int, index: int) -> int:
    """Seed of the environment's reset in episode `index`."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def parse_hold(
    text: str, low: Array, high: Array, choices: tuple[int, ...] = ()
) -> list[float] | str:
    """A hold action from a command line.

    Args:
        text: "zero", "repeat", or numbers separated by commas: those of an action, or of the
            options that are chosen, counted from 0.
        low, high: bounds of actions ``[A]``.
        choices: how many options each choice of an action has, where actions are choices.

    Returns:
        The action's numbers, or "repeat" (the last action once more).

    Raises:
        UserError: anything else, or an action outside the bounds.
    """
    low, high = np.ravel(low), np.ravel(high)
    if text == "repeat":
        return text
    if choices:
        return _chosen(text, choices)
    if text == "zero":
        return [float(x) for x in np.clip(np.zeros(len(low)), low, high)]
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"hold is {text!r}: use zero, repeat, or {len(low)} numbers separated by commas"
        ) from None
    if len(numbers) != len(low):
        raise UserError(f"hold has {len(numbers)} numbers, but an action has {len(low)}")
    if not ((low <= numbers) & (numbers <= high)).all():
        raise UserError(f"hold is {numbers}: outside the bounds {low.tolist()} to {high.tolist()}")
    return numbers


def _chosen(text: str, choices: tuple[int, ...]) -> list[float]:
    """An action of which `text` numbers the option of each choice."""
    numbers = text.split(",")
    if len(numbers) != len(choices) or not all(
        number.strip().isdecimal() and int(number) < count
        for number, count in zip(numbers, choices, strict=True)
    ):
        ranges = ", ".join(f"0 to {count - 1}" for count in choices)
        raise UserError(
            f"hold is {text!r}, but actions are choices: use repeat, or the number of the option "
            f"for each ({ranges})"
        )
    chosen = zip(numbers, choices, strict=True)
    return [float(i == int(number)) for number, count in chosen for i in range(count)]
