"""Goal images, and the files beside them with their start and goal states."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldmodel.cli import atomic_write_bytes, atomic_write_json
from worldmodel.data.environments import VIEW_FLAGS
from worldmodel.data.images import fit_pixels, is_video_frame, read_pixels, split_names
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.measure.tasks import GoalTask, render, sample_tasks

Array = NDArray[Any]
NOT_SAVED = ("image_size", "render_mode", "max_episode_steps")


@dataclass(frozen=True)
class GoalConfig:
    """Which goal image to make."""

    SHORT: ClassVar = VIEW_FLAGS

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    out: Path
    """PNG file to write. A .json file of the same name gets the start and goal states."""
    seed: int = 0
    """Seed of the task."""
    goal_offset: int = 25
    """Environment steps from the start to the goal, where the task uses them (Push-T does)."""
    image_size: int = 112
    """Height and width of the image, pixels."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, such as --env_kwargs.layout U."""


@dataclass(frozen=True, eq=False)
class GoalFile:
    """Content of the ``.json`` file beside a goal image: where to start, and the goal state for
    measuring success."""

    env: str
    env_kwargs: dict[str, Any]
    start_state: list[float]
    goal_state: list[float]
    env_seed: int | None = None  #: of the episode that both come from
    image_hash: str | None = None  #: see `image_hash`; None in files without one


@dataclass(frozen=True, eq=False)
class Goals:
    """What ``--goal`` names.

    Attributes:
        names: of the images.
        images: uint8 ``[N, S, S, 3]``.
        files: what lies beside each image, or None.
    """

    names: list[str]
    images: Array
    files: list[GoalFile | None]

    @property
    def states(self) -> list[Array]:
        """The goal states ``[Ds]``; none unless all are known."""
        known = [np.asarray(file.goal_state, np.float64) for file in self.files if file]
        return known if len(known) == len(self.files) else []


def make_goal(config: GoalConfig) -> None:
    """Sample a task, and write its goal image and the ``.json`` file.

    Raises:
        UserError: a setting, the environment or the path is unusable.
    """
    env = make_env(config.env, config.env_kwargs, config.image_size)
    try:
        task = sample_tasks(env, 1, config.seed, config.goal_offset)[0]
        save_goal(task, env, config.out)
    finally:
        env.close()


def save_goal(task: GoalTask, env: gym.Env[Any, Any], path: str | Path) -> None:
    """Write a goal image as PNG to `path`, and the states beside it as ``.json``.

    Raises:
        UserError: `path` does not end in .png, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"a goal image is a PNG file: {path} should end in .png")
    buffer, pixels = io.BytesIO(), render(env, task.goal_state)
    Image.fromarray(pixels).save(buffer, "PNG")
    assert env.spec is not None
    kwargs = {name: value for name, value in env.spec.kwargs.items() if name not in NOT_SAVED}
    atomic_write_bytes(path, buffer.getvalue())
    atomic_write_json(
        path.with_suffix(".json"),
        {
            "env": env.spec.id,
            "env_kwargs": kwargs,
            "start_state": task.start_state.tolist(),
            "goal_state": task.goal_state.tolist(),
            "env_seed": task.env_seed,
            "image_hash": image_hash(pixels),
        },
    )


def image_hash(pixels: Array) -> str:
    """A hash of an image ``[H, W, 3]``: the same for the same pixels in any lossless format."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def load_goals(names: str, size: int, fit: str = "stretch") -> Goals:
    """The goals in ``a.png,b.png``: see `load_goal`.

    Raises:
        UserError: as `load_goal` does.
    """
    found = split_names(names)
    images, files = zip(*(load_goal(name, size, fit) for name in found), strict=True)
    return Goals(found, np.stack(images), list(files))


def load_goal(path: str | Path, size: int, fit: str = "stretch") -> tuple[Array, GoalFile | None]:
    """A goal image (see `load_image`), and the ``.json`` file beside it if there is one. A frame of
    a video has none.

    Raises:
        UserError: the image or the file is unusable, or the file describes another image.
    """
    pixels = read_pixels(path)
    goal = None if is_video_frame(path) else _file_beside(path)
    if goal is not None and goal.image_hash not in (None, image_hash(pixels)):
        raise UserError(
            f"{Path(path).with_suffix('.json')} describes another image than {path}, so success "
            "would be that of another goal: move it away, or make both again"
        )
    return fit_pixels(pixels, path, size, fit), goal


def _file_beside(path: str | Path) -> GoalFile | None:
    beside = Path(path).with_suffix(".json")
    if not beside.exists():
        return None
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        goal = GoalFile(**content)
        for state in (goal.start_state, goal.goal_state):
            if not np.isfinite(np.asarray(state, np.float64)).all():
                raise ValueError("a state holds NaN or infinity")
        if not isinstance(goal.env, str) or not isinstance(goal.env_kwargs, dict):
            raise ValueError("env must be a name and env_kwargs its arguments")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{beside}, beside the goal image, is no description of a goal ({error}): "
            "correct it or move it away"
        ) from None
    return goal
