"""A `Task` for any deterministic environment, whose simulator's state need not be settable.

A state is the numbers of an observation. Start and goal come from one exploration episode, which is
found again by its seed: a reset to the start replays its actions. Where success is the
environment's own word, that word is one more number of a state, and goals are states in which it
is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import ArrayLike, NDArray

from envs.observation_fields import field, flat, number_fields
from envs.success import WAYS, Near, Said, parse_success
from envs.task import EXPLORATION_STEPS, NoGoal, Task

Array = NDArray[Any]
LONGEST = 1000  # steps from a start to a goal


class ObservedTask(gym.Wrapper[Any, Any, Any, Any], Task, RecordConstructorArgs):
    """Success: what `envs.success` says.

    Args:
        env: an environment with actions in a Box, whose episodes are the same for the same seed and
            actions. An episode that has ended stays as it is.
        success: what counts as a success (see `parse_success`), as "block_pos:20,block_angle:0.35",
            "info.is_success", "terminated", "reward>0.95" or "my_module:reached". Without it, there
            are no goals.

    Attributes:
        shows: the image of the observation it is given, while the environment is in that state;
            `PixelsAndProprio.image`.

    Raises:
        ValueError: `success` is not that, or the environment does not say it.
    """

    settable: ClassVar = False
    shows: Callable[[Any], Array] | None = None

    def __init__(self, env: gym.Env[Any, Any], success: str = "") -> None:
        RecordConstructorArgs.__init__(self, success=success)
        super().__init__(env)
        self._fields = number_fields(env.observation_space)
        widths = {name: spaces.flatdim(space) for name, space in self._fields.items()}
        self.state_names = tuple(
            name if n == 1 else f"{name}_{i}" for name, n in widths.items() for i in range(n)
        )
        self._success = parse_success(success, widths)
        self.own_goal = isinstance(self._success, Said)
        if self.own_goal:
            self.state_names += ("own_success",)
        if not success:
            self.unready = (
                f"what counts as a success is not known: give --success {WAYS}. Names are "
                f"{', '.join(widths) or 'none'}"
            )
        self._seed: int | None = None  # of the current episode
        self._actions: list[Array] = []  # of the current episode
        self._observation: Any = None
        self._said = False  # by the environment: its own goal is reached
        self._over: tuple[Any, Any, bool, bool, dict[str, Any]] | None = None
        # The latest exploration episode: seed, states and actions; whether it ended by itself.
        self._explored: tuple[int, Array, Array] | None = None
        self._ended = False
        if not isinstance(self._success, Near):
            self._try_success()

    # Gymnasium -----------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode. With ``options["state"]``: from that state of the exploration episode
        of this seed.

        Raises:
            ValueError: the state is none of it, or the environment is not deterministic.
        """
        options = dict(options or {})
        options.pop("goal_state", None)
        if options.pop("variation", None):
            raise ValueError(f"{self._name} has no variations")
        start = options.pop("state", None)
        if start is None:
            return self._begin(seed, options)
        if seed is None:
            raise ValueError("a state is found again by the seed of its episode: give one")
        found = self._replay(seed, self._way_to(start, seed))
        if not _alike(self.get_state()[None], np.asarray(start))[0]:
            raise ValueError(
                f"{self._name} is not deterministic: after the same seed and the same actions its "
                "observation differs, so goals cannot be found again"
            )
        return found

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment. An episode that has ended stays as it is."""
        self._actions.append(np.array(action))
        if self._over is not None:
            return self._over
        found = self.env.step(action)
        self._observation, reward, terminated, truncated, info = found
        if isinstance(self._success, Said):
            self._said = self._success(float(reward), terminated, info)
        if terminated or truncated:
            self._over = self._observation, 0.0, terminated, truncated, info
        return found

    # Task ----------------------------------------------------------------------------------------

    def get_state(self) -> Array:
        parts = [flat(s, field(self._observation, name)) for name, s in self._fields.items()]
        if self.own_goal:
            parts.append(np.array([float(self._said)]))
        return np.concatenate(parts) if parts else np.zeros(0)

    def success(self, state: Array, goal: Array) -> bool:
        if isinstance(self._success, Said):
            return bool(state[-1])
        return self._success.reached(state, goal)

    def distance(self, states: Array, goal: Array) -> Array:
        """See `Near.distance`.

        Raises:
            ValueError: success is no distance.
        """
        if isinstance(self._success, Near):
            return self._success.distance(states, goal)
        return Task.distance(self, states, goal)

    def errors(self, state: Array, goal: Array) -> dict[str, float]:
        return self._success.errors(state, goal) if isinstance(self._success, Near) else {}

    def sample_task(self, env_seed: int, goal_offset: int) -> tuple[Array, Array]:
        """A start and a goal of one exploration episode, `goal_offset` steps apart. Where success
        is the environment's own word, the goal is the first state of which it said so, and the
        start lies at most `goal_offset` steps before it.

        Raises:
            NoGoal: the episode did not reach the environment's own goal, or is too short.
        """
        states, _ = self._explore(env_seed, EXPLORATION_STEPS + goal_offset)
        if isinstance(self._success, Said):
            reached = np.flatnonzero(states[:, -1])
            if not len(reached):
                raise NoGoal(
                    f"{self._name} did not say {self._success.text!r} in exploration: give a "
                    "--goal image, if the command takes one, or write a Task (docs/own-data.md)"
                )
            return states[max(0, reached[0] - goal_offset)], states[reached[0]]
        last = len(states) - 1 - goal_offset
        if last < 0:
            raise NoGoal(
                f"{self._name} ended after {len(states) - 1} steps of exploration: choose a "
                f"smaller goal_offset than {goal_offset}"
            )
        first = int(np.random.default_rng([env_seed, 2]).integers(last + 1))
        return states[first], states[first + goal_offset]

    def render_state(self, state: ArrayLike) -> Array:
        """See `Task.render_state`, for states of the latest exploration episode."""
        before = self._at(state)
        found: Any = self.env.render() if self.shows is None else self.shows(self._observation)
        image = np.array(found)
        self._restore(*before)
        return image

    def physics(self, state: ArrayLike, actions: Array) -> Array:
        """See `Task.physics`, from states of the latest exploration episode."""
        before = self._at(state)
        path = [self.get_state()]
        for action in actions:
            self.step(action)
            path.append(self.get_state())
        self._restore(*before)
        return np.stack(path)

    def _try_success(self) -> None:
        """Ask once, so that an unusable word or function shows before the work.

        Raises:
            ValueError: it is unusable.
        """
        obs, info = self._begin(0, {})
        self.step(self.explore("explore", np.random.default_rng(0))(obs, info))
        self.success(self.get_state(), self.get_state())

    # Replaying -----------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__

    def _begin(self, seed: int | None, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if seed is None:
            seed = int(self.np_random.integers(2**31))  # so that the episode can be replayed
        self._seed, self._actions, self._over = seed, [], None
        self._observation, info = self.env.reset(seed=seed, options=options or None)
        self._said = isinstance(self._success, Said) and self._success.at_reset(info)
        return self._observation, info

    def _replay(self, seed: int, actions: Sequence[Array]) -> tuple[Any, dict[str, Any]]:
        """An episode from its seed on, by its actions."""
        _, info = self._begin(seed, {})
        for action in actions:
            _, _, _, _, info = self.step(action)
        return self._observation, info

    def _restore(self, seed: int | None, actions: list[Array]) -> None:
        """Continue the episode that was under way."""
        if seed is not None:
            self._replay(seed, actions)

    def _at(self, state: ArrayLike) -> tuple[int | None, list[Array]]:
        """Bring the environment to a state; returns the episode that was under way."""
        if self._explored is None:
            raise ValueError(f"{self._name} knows states of exploration episodes only")
        before, seed = (self._seed, self._actions), self._explored[0]
        self._replay(seed, self._way_to(state, seed))
        return before

    def _explore(self, seed: int, steps: int) -> tuple[Array, Array]:
        """States ``[n + 1, Ds]`` and actions ``[n, A]`` of the exploration episode of a seed."""
        if self._explored is not None and self._explored[0] == seed:
            _, states, actions = self._explored
            if len(actions) >= steps or self._ended:
                return states, actions
        obs, info = self._begin(seed, {})
        policy = self.explore("explore", np.random.default_rng([seed, 1]))
        path, self._ended = [self.get_state()], False
        while len(path) <= steps and not self._ended:
            obs, _, terminated, truncated, info = self.step(policy(obs, info))
            path.append(self.get_state())
            self._ended = terminated or truncated
        self._explored = seed, np.stack(path), np.stack(self._actions)
        return self._explored[1:]

    def _way_to(self, state: ArrayLike, seed: int) -> list[Array]:
        """The actions from the reset to a state of the exploration episode of a seed."""
        for steps in (2 * EXPLORATION_STEPS, EXPLORATION_STEPS + LONGEST):
            states, actions = self._explore(seed, steps)
            found = _alike(states, np.asarray(state, np.float64))
            if found.any():
                return list(actions[: int(found.argmax())])
        raise ValueError(
            f"{self._name} has no such state in the exploration episode of this seed: it is not "
            "deterministic, or another version of it made the task"
        )


def _alike(states: Array, state: Array) -> Array:
    """Which of the states ``[n, Ds]`` are `state` ``[Ds]``, up to rounding."""
    near: Array = np.isclose(states, state, rtol=1e-5, atol=1e-6)
    alike: Array = np.all(near, axis=1)
    return alike
