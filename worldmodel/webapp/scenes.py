"""Which scenes the page offers: those of all registered environments."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

import envs  # noqa: F401  (registers the bundled environments)
from envs.task import Scene
from worldmodel.errors import UserError
from worldmodel.measure.environments import same_env
from worldmodel.models.checkpoint import find_checkpoint, load_info


@dataclass(frozen=True)
class SceneChoice:
    """A scene in the page's list.

    Attributes:
        env_id: Gymnasium id of the environment.
        scene: how to show it.
        checkpoint: bundled name, folder or hf:USER/NAME; None takes the one bundled for the
            environment.
    """

    env_id: str
    scene: Scene
    checkpoint: str | None = None


def scene_choices(checkpoint: str | None = None) -> dict[str, SceneChoice]:
    """The scenes of all registered environments, by title.

    The scenes of the environment that `checkpoint` was trained in come first, and use it.

    Raises:
        UserError: there is no such checkpoint, or its environment is not registered.
    """
    if checkpoint is None:
        return _registered()
    info = load_info(find_checkpoint(checkpoint))
    try:
        gym.spec(info.env_id)  # imports the module before a colon, which registers the environment
    except (gym.error.Error, ImportError) as error:
        raise UserError(f"checkpoint {checkpoint} needs {info.env_id}: {error}") from None
    choices = _registered()
    own = [choice for choice in choices.values() if same_env(choice.env_id, info.env_id)]
    if not own:
        own = [SceneChoice(info.env_id, Scene(info.env_id))]
    trained = {}
    for choice in own:
        env_kwargs = {**info.env_kwargs, **choice.scene.env_kwargs}
        scene = dataclasses.replace(choice.scene, env_kwargs=env_kwargs)
        trained[scene.title] = SceneChoice(info.env_id, scene, checkpoint)
    return trained | {title: each for title, each in choices.items() if title not in trained}


def _registered() -> dict[str, SceneChoice]:
    choices = {}
    for env_id, spec in list(gym.registry.items()):
        entry: Any = spec.entry_point
        if isinstance(entry, str):
            if entry.startswith(
                "gymnasium."
            ):  # Gymnasium's own have no scenes; importing them is slow
                continue
            try:
                entry = gym.envs.registration.load_env_creator(entry)
            except (ImportError, AttributeError):
                continue  # a package that registers environments whose dependencies are missing
        for scene in getattr(entry, "scenes", ()):
            choices[scene.title] = SceneChoice(env_id, scene)
    return choices
