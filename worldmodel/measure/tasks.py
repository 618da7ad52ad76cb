"""Tasks: where the robot starts and which goal image it is shown.

    python -m worldmodel.tasks --env worldmodel/PushT-v0 --seed 3 --out goal.png

writes ``goal.png`` and, beside it, ``goal.json`` with the start and goal states.
"""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from envs.task import task_of
from worldmodel.cli import atomic_write_bytes, atomic_write_json, parse_config
from worldmodel.cli import run as run_command
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.models.checkpoint import CheckpointInfo

Array = NDArray[Any]
# Recording seeds its environments with 32-bit numbers: no task is ever part of a training set.
HELD_OUT = 2**32
SEEDS_PER_SEED = 2**20
PLAIN = ("image_size", "render_mode", "max_episode_steps")  # how it looks, not what it is


@dataclass(frozen=True, eq=False)
class Task:
    """States ``[Ds]`` to start from and to reach, and the seed they came from."""

    start_state: Array
    goal_state: Array
    env_seed: int


@dataclass(frozen=True, eq=False)
class Sidecar:
    """What ``goal.json`` says about ``goal.png``; for the judge, and for where to start."""

    env: str
    env_kwargs: dict[str, Any]
    start_state: list[float]
    goal_state: list[float]


def make_env(
    env_id: str, env_kwargs: dict[str, Any], image_size: int = 112, max_steps: int = 10**6
) -> gym.Env[Any, Any]:
    """A bundled environment, or one like it: with ``physics``, ``success`` and ``render_state``.

    Raises:
        UserError: no such environment, wrong arguments, or nothing that could judge success.
    """
    try:
        module, _, name = env_id.rpartition(":")
        if module:
            importlib.import_module(module)
        entry = gym.spec(name).entry_point
        creator = gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    except (gym.error.Error, ImportError) as error:
        known = ", ".join(sorted(name for name in gym.registry if name.startswith("worldmodel/")))
        raise UserError(f"no environment {env_id!r} ({error}); bundled are {known}") from None
    for method in ("physics", "success", "render_state"):
        if not hasattr(creator, method):
            raise UserError(f"{env_id} has no {method}(): tasks are made for the bundled ones only")
    kwargs = {**env_kwargs, "image_size": image_size, "max_episode_steps": max_steps}
    try:
        env: gym.Env[Any, Any] = gym.make(name, disable_env_checker=True, **kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f"cannot make {env_id} with {env_kwargs}: {error}") from None
    return env


def same_env(one: str, other: str) -> bool:
    """Whether two ids mean the same, with or without a module to import ("envs:worldmodel/…")."""
    return one.rpartition(":")[2] == other.rpartition(":")[2]


def check_fits(env: gym.Env[Any, Any], info: CheckpointInfo) -> None:
    """Whether a checkpoint was trained for `env`.

    Raises:
        UserError: it was trained for another environment, other actions or other proprio.
    """
    assert env.spec is not None
    if not same_env(env.spec.id, info.env_id):
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
            f"this checkpoint knows {len(spec.proprio_mean)} numbers of proprio, but "
            f"{env.spec.id} measures {width}: train again"
        )


def sample_tasks(
    env: gym.Env[Any, Any],
    count: int,
    seed: int,
    goal_offset: int,
    allowed: Callable[[Array, Array], bool] = lambda start, goal: True,
) -> list[Task]:
    """`count` tasks, none of them solved at its start, the same for the same seed.

    Push-T: two states of a held-out exploration episode, `goal_offset` steps apart, so that every
    goal can be reached. Maze and chips: the start and goal that a held-out seed's reset draws.
    `allowed` says of a start and a goal whether they may be a task.

    Raises:
        UserError: `goal_offset` is out of range, or nearly every task is solved at its start, or
            not allowed.
    """
    if not 1 <= goal_offset <= 1000:
        raise UserError(f"goal_offset is {goal_offset}: it must be 1 to 1000 environment steps")
    if seed < 0 or count < 1:
        raise UserError(f"cannot make {count} tasks of seed {seed}: use at least 1 and at least 0")
    tasks: list[Task] = []
    judge = task_of(env)
    first = HELD_OUT + seed * SEEDS_PER_SEED
    for env_seed in range(first, first + 50 * count + 100):
        start, goal = judge.sample_task(env_seed, goal_offset)
        if not judge.success(start, goal) and allowed(start, goal):
            tasks.append(Task(start, goal, env_seed))
        if len(tasks) == count:
            return tasks
    raise UserError(
        f"only {len(tasks)} of {count} tasks were unsolved at their start and suit the guardrails: "
        f"take a larger goal_offset than {goal_offset}, or other regions"
    )


def begin(env: gym.Env[Any, Any], task: Task, variation: Sequence[str]) -> tuple[Any, Any]:
    """Put `env` to the start of `task`, in a world changed by `variation`."""
    options = {"state": task.start_state, "variation": variation}
    return env.reset(seed=task.env_seed, options=options)


def render(env: gym.Env[Any, Any], state: Array) -> Array:
    """The image of `state` in the world as `env` was begun, uint8 ``[H, W, 3]``."""
    world: Any = env.unwrapped
    pixels: Array = world.render_state(state)
    return pixels


def save_goal(task: Task, env: gym.Env[Any, Any], path: str | Path) -> None:
    """Write the goal image as PNG to `path`, and the states beside it as ``.json``.

    Raises:
        UserError: `path` does not end in .png, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"a goal image is a PNG file: {path} should end in .png")
    world: Any = env.unwrapped
    buffer = io.BytesIO()
    Image.fromarray(world.render_state(task.goal_state)).save(buffer, "PNG")
    assert env.spec is not None
    kwargs = {name: value for name, value in env.spec.kwargs.items() if name not in PLAIN}
    atomic_write_bytes(path, buffer.getvalue())
    atomic_write_json(
        path.with_suffix(".json"),
        {
            "env": env.spec.id,
            "env_kwargs": kwargs,
            "start_state": task.start_state.tolist(),
            "goal_state": task.goal_state.tolist(),
        },
    )


def load_image(path: str | Path, size: int) -> Array:
    """An RGB image file of `size` x `size` pixels, as uint8 ``[size, size, 3]``.

    Raises:
        UserError: missing, not an image, not RGB, or of another size.
    """
    try:
        with open(path, "rb") as file:
            return read_image(file, str(path), size)
    except FileNotFoundError:
        raise UserError(f"no image at {path}") from None
    except OSError as error:
        raise UserError(f"{path} is not an image that can be read: {error}") from None


def read_image(file: IO[bytes], name: str, size: int) -> Array:
    """The same from an open file, which errors call `name`. What does not fit is not decoded."""
    try:
        with Image.open(file) as image:
            if image.mode != "RGB":
                raise UserError(
                    f"{name} has mode {image.mode} ({len(image.getbands())} channel(s)): "
                    "save it as plain RGB, 8 bits a channel"
                )
            if image.size != (size, size):
                raise UserError(
                    f"{name} is {image.width}x{image.height} pixels: this model sees "
                    f"{size}x{size}; crop and resize it as the camera images were"
                )
            image.load()
            return np.array(image)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} is not an image that can be read: its format is unknown") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is not an image that can be read: {error}") from None


def load_goal(path: str | Path, size: int) -> tuple[Array, Sidecar | None]:
    """A goal image (see `load_image`) and the ``.json`` beside it, if there is one.

    Raises:
        UserError: the image or the sidecar is unusable.
    """
    pixels = load_image(path, size)
    beside = Path(path).with_suffix(".json")
    if not beside.exists():
        return pixels, None
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        sidecar = Sidecar(**content)
        for state in (sidecar.start_state, sidecar.goal_state):
            if not np.isfinite(np.asarray(state, np.float64)).all():
                raise ValueError("a state holds NaN or infinity")
        if not isinstance(sidecar.env, str) or not isinstance(sidecar.env_kwargs, dict):
            raise ValueError("env must be a name and env_kwargs its arguments")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{beside}, beside the goal image, is no description of a goal ({error}): "
            "mend it or move it away"
        ) from None
    return pixels, sidecar


@dataclass(frozen=True)
class TaskConfig:
    """Which goal to make."""

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    out: Path
    """PNG file to write; a .json of the same name goes beside it."""
    seed: int = 0
    """Seed of the task."""
    goal_offset: int = 25
    """How many steps ahead the goal lies (Push-T)."""
    image_size: int = 112
    """Height and width of the image."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, as --env_kwargs.layout U."""


@run_command
def main(argv: list[str] | None = None) -> int | None:
    """Write one goal image with its task."""
    config = parse_config(TaskConfig, argv, "worldmodel.tasks", "Make a goal image.")
    env = make_env(config.env, config.env_kwargs, config.image_size)
    task = sample_tasks(env, 1, config.seed, config.goal_offset)[0]
    save_goal(task, env, config.out)
    print(f"wrote {config.out} and {config.out.with_suffix('.json')}")
    return 0
