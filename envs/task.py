"""What an environment tells the rest of the program, beyond Gymnasium's interface.

Gymnasium says how an environment is reset and stepped. A `Task` adds how its goals are sampled,
when a state counts as a success, how to explore it, and which action holds the robot still. Nothing
outside this package asks which environment it is dealing with: it asks the task.

A new environment is one file: a Gymnasium environment that also inherits `Task` (most of which has
a default), and one `gymnasium.register` call in ``envs/__init__.py``, or in your own package.
`task_of` finds the task of a wrapped environment, so a `gymnasium.Wrapper` may supply it for
an environment of another package.

States ``[Ds]`` are simulator truth. They are for evaluation, probes and data collection; no planner
sees them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.random_walk import RandomWalk

Array = NDArray[Any]
Obs = dict[str, Any]
Policy = Callable[[Any, dict[str, Any]], Array]
"""``policy(obs, info) -> action``, which collects data."""

REQUIRED = ("state_names", "get_state", "success", "render_state", "physics")
ANGLE = re.compile(r"(angle|theta|yaw)$")
INVISIBLE = re.compile(r"(^|[ _.])(v[xyz]?|omega|velocity|.*_?seed)$")
EXPLORATION_STEPS = 100  # of the episode that `Task.sample_task` cuts goals from


class NoGoal(ValueError):
    """No task could be sampled from this seed; another one may have one."""


@dataclass(frozen=True)
class Scene:
    """One way to show an environment on the page of ``worldmodel.app``.

    Attributes:
        title: in the list of scenes.
        hint: how to set the goal by hand.
        robot: what a forbidden region is kept free of, such as "the pusher's centre".
        env_kwargs: arguments of the environment.
        steps: environment steps of a run.
        margin: metres around forbidden regions.
    """

    title: str
    hint: str = "Upload an image, or take another seed."
    robot: str = "the robot's centre"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    steps: int = 50
    margin: float = 0.0


class Task:
    """The interface, with defaults for everything that is optional.

    Required: `state_names`, `get_state`, `success`, `render_state`, `physics`, and a ``reset`` that
    takes ``options={"state": ..., "variation": [...]}``. Collecting data needs none of them.
    """

    state_names: tuple[str, ...]
    """Names of the numbers of a state."""
    proprio_names: tuple[str, ...] = ()
    """Names of the numbers that the robot measures of itself."""
    action_names: tuple[str, ...] = ()
    """Names of the numbers of an action, such as ("start_x", "start_y", "end_x", "end_y"). The
    guardrail ``action_points`` refers to them."""
    unready: str = ""
    """Why goals cannot be sampled and success cannot be measured, where that is so."""
    settable: ClassVar[bool] = True
    """Whether any state can be shown, and simulated from."""
    own_goal: bool = False
    """Whether `success` is about a goal of the environment's own, whatever goal state it is
    given."""
    goal_offset_matters: ClassVar[bool] = True
    """Whether `sample_task` puts the goal ``goal_offset`` steps ahead of the start."""

    # Simulation ----------------------------------------------------------------------------

    def get_state(self) -> Array:
        """The simulator's state, float64 ``[Ds]``."""
        raise NotImplementedError

    def render_state(self, state: ArrayLike) -> Array:
        """The camera image of a state ``[Ds]``, uint8 ``[H, W, 3]``; the episode goes on
        undisturbed."""
        raise NotImplementedError

    def observe_state(self, state: ArrayLike) -> Obs:
        """The observation in a state ``[Ds]``; the episode goes on undisturbed.

        By default, ``pixels`` alone. The ceiling with the agent's own cost, and a `hold` that reads
        proprioception, need ``proprio`` as well.
        """
        return {"pixels": self.render_state(state)}

    def physics(self, state: ArrayLike, actions: Array) -> Array:
        """States ``[n + 1, Ds]`` under actions ``[n, A]`` from `state` on, without rendering; the
        episode goes on undisturbed."""
        raise NotImplementedError

    # Evaluation ----------------------------------------------------------------------------

    def success(self, state: Array, goal: Array) -> bool:
        """Whether `state` ``[Ds]`` counts as having reached `goal` ``[Ds]``."""
        raise NotImplementedError

    def distance(self, states: Array, goal: Array) -> Array:
        """Squared distance ``[...]`` of states ``[..., Ds]`` to `goal`, in units of what `success`
        tolerates: 1 is about the limit. Used for the ceiling (planning on the true simulator)."""
        raise ValueError(f"{type(self).__name__} has no distance(): use --ceiling.episodes 0")

    def errors(self, state: Array, goal: Array) -> dict[str, float]:
        """Errors of `state` by name and unit, for people to read: ``{"block, mm": 3.2}``."""
        return {}

    def metrics(self, path: Array, goal: Array) -> dict[str, bool | float]:
        """Further results of an episode, from its states ``[steps + 1, Ds]``. Booleans are reported
        as rates, numbers as means."""
        return {}

    def sample_task(self, env_seed: int, goal_offset: int) -> tuple[Array, Array]:
        """A start and a goal state ``[Ds]``; the same for the same seed. Resets the environment.

        By default, both come from one exploration episode, the goal `goal_offset` steps after the
        start, so that every goal can be reached.

        Raises:
            NoGoal: this seed has no task.
        """
        self.reset(seed=env_seed)  # type: ignore[attr-defined]
        rng = np.random.default_rng([env_seed, 1])
        policy = self.explore("explore", rng)
        first = int(rng.integers(max(1, EXPLORATION_STEPS - goal_offset)))
        states = [self.get_state()]
        for _ in range(first + goal_offset):
            action = policy(None, {"state": states[-1]})
            states.append(self.physics(states[-1], action[None])[-1])
        return states[first], states[-1]

    def readings(self, states: Array) -> dict[str, Array]:
        """Quantities ``[...]`` that an image of a state ``[..., Ds]`` shows, by name. Probes learn
        to read them from latents; guardrails refer to them by name.

        By default, the numbers of the state, judged by their names: an angle (``angle``, ``theta``,
        ``yaw``) as its sine and cosine; no velocities and seeds, which an image does not show.
        """
        found: dict[str, Array] = {}
        for column, name in enumerate(self.state_names):
            values = states[..., column]
            if ANGLE.search(name):
                found |= {f"sin {name}": np.sin(values), f"cos {name}": np.cos(values)}
            elif not INVISIBLE.search(name):
                found[name] = values
        return found

    # Data ----------------------------------------------------------------------------------

    policies: ClassVar[tuple[str, ...]] = ("explore", "random")
    """Names that `explore` takes."""

    def explore(self, policy: str, rng: np.random.Generator) -> Policy:
        """An exploration policy. It may read ``info["state"]``; `sample_task` gives it no
        observation."""
        return RandomWalk(rng, self.action_space, persistence=2.0)  # type: ignore[attr-defined]

    def hold(self, obs: Any) -> Array | None:
        """The action ``[A]`` that keeps the robot where it is, or None where there is none. The
        agent brakes with it."""
        return None

    # Variations and disturbances -----------------------------------------------------------

    variations: ClassVar[tuple[str, ...]] = ()
    """What ``reset(options={"variation": [...]})`` can change."""
    disturbances: ClassVar[tuple[str, ...]] = ()
    """What `disturb` can do."""
    contact_disturbances: ClassVar[tuple[str, ...]] = ()
    """Those that show only while the robot touches something."""

    def disturb(self, name: str, rng: np.random.Generator) -> None:
        """Change the world in the middle of an episode, in a way that no model can predict."""
        raise ValueError(f"{type(self).__name__} has no disturbance {name!r}")

    @contextlib.contextmanager
    def undo_disturbances(self) -> Iterator[None]:
        """Undo disturbances at the end of the ``with`` block."""
        yield

    # Pictures ------------------------------------------------------------------------------

    scenes: ClassVar[tuple[Scene, ...]] = ()
    """How ``worldmodel.app`` shows the environment."""

    def in_image(self, points: ArrayLike) -> Array | None:
        """Where points of the workspace ``[..., 2]``, metres, are in the image, ``[..., 2]``: from
        the left and from the top, as fractions of its width and height. None where the camera does
        not look straight at the workspace."""
        return None

    def from_image(self, places: ArrayLike) -> Array:
        """The inverse of `in_image`."""
        raise ValueError(f"{type(self).__name__} cannot tell points from places in its image")

    def action_path(self, actions: Array) -> Array | None:
        """The points ``[..., n, 2]``, metres, that actions ``[..., A]`` lead through, where actions
        are motions of their own, such as strokes. None: draw the robot's imagined positions."""
        return None

    movable: ClassVar[dict[str, str]] = {}
    """Objects that can be dragged in a goal image: their names, and the name of the state's number
    that is their x; y follows it."""
    turnable: ClassVar[str | None] = None
    """The state's number that is an angle which can be set in a goal image."""

    def settle(self, state: Array) -> Array:
        """The nearest state ``[Ds]`` that can be a goal: at rest, nothing inside anything else."""
        return state


def find_task(env: gym.Env[Any, Any]) -> Any:
    """The outermost wrapper that is a `Task`, or the environment itself, or None. It may lack what
    evaluation needs: see `task_of`."""
    layer: Any = env
    while not isinstance(layer, Task):
        if not isinstance(layer, gym.Wrapper):
            return None
        layer = layer.env
    return layer


def has_state(env: gym.Env[Any, Any]) -> bool:
    """Whether there is a task that tells the state."""
    task = find_task(env)
    return task is not None and type(task).get_state is not Task.get_state


def task_of(env: gym.Env[Any, Any]) -> Any:
    """The task of an environment: the outermost wrapper, or the environment itself, that is a
    `Task`.

    Raises:
        ValueError: there is none, or it lacks something; names what is missing.
    """
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    help_text = "sampling goals and measuring success need one (see docs/own-data.md)"
    task = find_task(env)
    if task is None:
        raise ValueError(
            f"{name} has no envs.task.Task: {help_text}; collecting and training do not"
        )
    missing = [x for x in REQUIRED if getattr(type(task), x, None) is getattr(Task, x, None)]
    missing = [x for x in missing if x not in vars(task)]
    if missing:
        raise ValueError(f"the Task of {name} has no {', '.join(missing)}: {help_text}")
    return task
