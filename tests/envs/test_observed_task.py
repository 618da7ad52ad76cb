"""Environments of other packages, without a task or a wrapper of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from envs.observation_fields import (
    field,
    number_fields,
    parse_parts,
    part_names,
    robots_own,
    space_fields,
    spelled,
)
from envs.observed_task import ObservedTask
from envs.wrappers import PixelsAndProprio
from worldmodel.data.environments import create_env
from worldmodel.errors import UserError
from worldmodel.measure.environments import chosen_kwargs, make_env, view_of
from worldmodel.measure.tasks import HELD_OUT, begin, render, render_goal, sample_tasks


class Swing(gym.Env[Any, Any]):
    """A pendulum. Its observation is a vector: cosine and sine of its angle, and its speed."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = spaces.Box(-8.0, 8.0, (3,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def _obs(self) -> np.ndarray[Any, Any]:
        return np.array([np.cos(self.angle), np.sin(self.angle), self.speed], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.angle, self.speed = self.np_random.uniform(-1, 1, 2)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.speed += 0.1 * float(action[0]) - 0.1 * np.sin(self.angle)
        self.angle += 0.1 * self.speed
        return self._obs(), 0.0, False, False, {}

    def render(self) -> Any:
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        near = np.hypot(x - 0.7 * np.sin(self.angle), y - 0.7 * np.cos(self.angle)) < 0.2
        return np.where(near[..., None], [200, 40, 40], [240, 240, 240]).astype(np.uint8)


class Announcing(Swing):
    """Says that its own goal is reached: the pendulum hangs far to one side. The episode ends
    farther out."""

    def __init__(self, render_mode: str | None = None, far: float = 1.2) -> None:
        super().__init__(render_mode)
        self.far, self.steps_after_the_end = far, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.ended = False
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps_after_the_end += self.ended
        obs, *_ = super().step(action)
        side = abs(float(self.angle))
        self.ended = side > self.far + 0.1
        return obs, side, self.ended, False, {"is_success": side > self.far, "text": "side"}


gym.register("Swing-v0", Swing)
gym.register("Announcing-v0", Announcing)


def swing() -> Any:
    return make_env("Swing-v0", {"success": "observation[0:2]:0.3"}, 48)


def test_tasks_are_cut_from_exploration_and_found_again() -> None:
    env, other = swing(), swing()
    tasks = sample_tasks(env, 3, 0, 25)
    again = sample_tasks(other, 3, 0, 25)
    for task, same in zip(tasks, again, strict=True):
        np.testing.assert_array_equal(task.start_state, same.start_state)
        obs, info = begin(other, task)
        np.testing.assert_allclose(info["state"], task.start_state, rtol=1e-5, atol=1e-6)
        goal = render(other, task.goal_state)
        assert goal.shape == (48, 48, 3) and (goal != obs["pixels"]).any()
        # Looking at the goal did not disturb the episode.
        _, _, _, _, after = other.step(np.zeros(1, np.float32))
        begin(other, task)
        _, _, _, _, expected = other.step(np.zeros(1, np.float32))
        np.testing.assert_array_equal(after["state"], expected["state"])
    env.close()
    other.close()


def test_physics_is_the_environment_itself() -> None:
    env = swing()
    (task,) = sample_tasks(env, 1, 3, 10)
    begin(env, task)
    actions = np.random.default_rng(0).uniform(-2, 2, (7, 1)).astype(np.float32)
    observed: Any = env
    while not isinstance(observed, ObservedTask):
        observed = observed.env
    imagined = observed.physics(task.start_state, actions)
    states = [env.step(action)[4]["state"] for action in actions]
    np.testing.assert_allclose(imagined[1:], states, rtol=1e-5, atol=1e-6)
    env.close()


def test_success_is_within_tolerances() -> None:
    task = ObservedTask(Fields(), "arm.qpos:0.5,block_angle:0.2")
    assert task.state_names == ("arm.qpos_0", "arm.qpos_1", "block_angle", "goal")
    goal = np.array([1.0, 1.0, np.pi - 0.05, 9.0])
    assert task.success(np.array([1.3, 1.3, -np.pi + 0.05, 0.0]), goal)
    assert not task.success(np.array([1.4, 1.4, np.pi, 0.0]), goal)
    assert not task.success(np.array([1.0, 1.0, np.pi - 0.3, 0.0]), goal)
    errors = task.errors(np.array([1.3, 1.4, -np.pi + 0.05, 0.0]), goal)
    assert errors == {"arm.qpos": pytest.approx(0.5), "block_angle": pytest.approx(0.1)}


@pytest.mark.parametrize(
    ("success", "message"),
    [
        ("", "what counts as a success is not known: give --success NAME:TOLERANCE"),
        ("observation", "write NAME:TOLERANCE"),
        ("observation:-1", "write NAME:TOLERANCE"),
        ("observation:nan", "write NAME:TOLERANCE"),
        ("speed:1", "no field 'speed': there are observation"),
        ("observation[7]:1", "observation has 3 numbers"),
        ("reward>much", "success is 'reward>much': write NAME:TOLERANCE"),
        ("info.solved", "info has no 'solved' after a step: it has nothing"),
        ("no_such_module:reached", "cannot be imported: No module named 'no_such_module'"),
        ("math:pi", "is no function"),
        ("operator:or_", "operator:or_ returns .* it must be true or false"),
    ],
)
def test_what_is_no_success_is_refused_before_the_work(success: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        make_env("Swing-v0", {"success": success} if success else {}, 48)


@pytest.mark.parametrize("success", ["info.is_success", "terminated", "reward>1.2"])
def test_goals_of_the_environments_own_are_states_in_which_it_says_so(success: str) -> None:
    env = make_env("Announcing-v0", {"success": success}, 48)
    least = 1.3 if success == "terminated" else 1.2
    for task in sample_tasks(env, 3, 0, 25):
        begin(env, task)
        assert task.start_state[-1] == 0 and task.goal_state[-1] == 1
        assert np.arctan2(*np.abs(task.goal_state[1::-1])) > least - 1e-6
    # Reached, then left: the state says so step by step, whatever the goal state is.
    far = Announcing(far=0.0)
    observed = ObservedTask(far, success)
    observed.reset(seed=0)
    *_, info = observed.step(np.zeros(1, np.float32))
    expected = {"info.is_success": info["is_success"], "terminated": far.ended}
    said = expected.get(success, abs(far.angle) > 1.2)
    assert observed.success(observed.get_state(), np.zeros(4)) == said
    with pytest.raises(ValueError, match="no distance"):
        observed.distance(np.zeros((2, 4)), np.zeros(4))


def test_an_episode_that_has_ended_stays_as_it_is() -> None:
    far = Announcing(far=0.0)
    env = ObservedTask(far, "terminated")
    env.reset(seed=0)
    while not far.ended:
        obs, *_ = env.step(np.ones(1, np.float32))
    again, reward, terminated, *_ = env.step(-np.ones(1, np.float32))
    np.testing.assert_array_equal(again, obs)
    assert (reward, terminated, far.steps_after_the_end) == (0.0, True, 0)
    env.reset(seed=0)
    assert not env.success(env.get_state(), env.get_state())


def test_exploration_that_never_succeeds_is_one_line() -> None:
    env = make_env("Announcing-v0", {"success": "info.is_success", "far": 99.0}, 48)
    with pytest.raises(
        UserError, match="no goal in 100 episodes: .* did not say 'info.is_success'"
    ):
        sample_tasks(env, 3, 0, 5)


def test_episodes_that_end_before_the_goal_are_passed_over() -> None:
    env = make_env("Announcing-v0", {"success": "observation:0.1"}, 48)
    tasks = sample_tasks(env, 3, 0, 25)
    first = tasks[0].env_seed
    lengths = []
    for env_seed in range(HELD_OUT, HELD_OUT + 40):
        policy = env.get_wrapper_attr("explore")("explore", np.random.default_rng([env_seed, 1]))
        obs, info = env.reset(seed=env_seed)
        ended = [env.step(policy(obs, info))[2] for _ in range(25)]
        lengths.append(25 if True not in ended[:-1] else ended.index(True) + 1)
    assert lengths[first - HELD_OUT] == 25 and min(lengths) < 25
    with pytest.raises(UserError, match="no goal in 100 episodes: .*smaller goal_offset than 1000"):
        sample_tasks(env, 3, 0, 1000)


def test_a_goal_image_of_ones_own_needs_a_goal_of_the_environments_own() -> None:
    image = np.full((48, 48, 3), 7, np.uint8)
    env = make_env("Announcing-v0", {"success": "info.is_success", "far": 99.0}, 48)
    for task in sample_tasks(env, 2, 0, 5, goal_image=image):
        _, info = begin(env, task)
        np.testing.assert_array_equal(info["state"], env.reset(seed=task.env_seed)[1]["state"])
        assert (render_goal(env, task) == 7).all()
    with pytest.raises(UserError, match="which an image does not tell"):
        sample_tasks(swing(), 2, 0, 5, goal_image=image)


def test_a_function_of_ones_own_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "swing_success.py").write_text(
        "def slow(now, goal):\n"
        "    return abs(now['observation'][2] - goal['observation'][2]) < 0.5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env: Any = make_env("Swing-v0", {"success": "swing_success:slow"}, 48)
    goal = np.array([1.0, 0.0, 2.0])
    assert env.get_wrapper_attr("success")(np.array([-1.0, 0.0, 2.4]), goal)
    assert not env.get_wrapper_attr("success")(np.array([1.0, 0.0, 2.6]), goal)
    assert len(sample_tasks(env, 2, 0, 25)) == 2


def test_an_environment_that_is_not_deterministic_is_named() -> None:
    env = ObservedTask(Noisy(), "observation:0.1")
    start, _ = env.sample_task(5, 4)
    with pytest.raises(ValueError, match="Noisy .*not deterministic"):
        env.reset(seed=5, options={"state": start})


# Fields ------------------------------------------------------------------------------------------


class Fields(gym.Env[Any, Any]):
    """Nested fields, two cameras with channels first, and a goal that is not to be taken."""

    render_mode = None

    def __init__(self) -> None:
        image = spaces.Box(0, 255, (3, 20, 30), np.uint8)
        number = spaces.Box(-10.0, 10.0, (1,), np.float64)
        self.observation_space = spaces.Dict(
            {
                "arm": spaces.Dict({"qpos": spaces.Box(-10.0, 10.0, (2,), np.float64)}),
                "block_angle": number,
                "goal": number,
                "front": image,
                "wrist": image,
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        image = np.zeros((3, 20, 30), np.uint8)
        image[0] = 200
        obs = {"arm": {"qpos": np.array([1.0, 2.0])}, "block_angle": np.array([3.0])}
        return {**obs, "goal": np.array([4.0]), "front": image, "wrist": image + 1}, {}


class Noisy(gym.Env[Any, Any]):
    """Its observation is not what its seed says."""

    observation_space = spaces.Box(0.0, 1.0, (2,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.random.default_rng().uniform(size=2), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.random.default_rng().uniform(size=2), 0.0, False, False, {}


def test_only_what_is_plainly_the_robots_own_becomes_proprio() -> None:
    env = PixelsAndProprio(Fields(), 30, pixels_key="front")
    obs, _ = env.reset()
    assert obs["proprio"].tolist() == [1.0, 2.0] and env.proprio_names == (
        "arm.qpos_0",
        "arm.qpos_1",
    )
    assert (obs["pixels"][..., 0] == 200).all() and not obs["pixels"][..., 1:].any()
    assert "--proprio_keys can name block_angle, goal" in env.sentence()
    chosen = PixelsAndProprio(Fields(), 30, "wrist", "block_angle,arm.qpos[1]")
    assert chosen.reset()[0]["proprio"].tolist() == [3.0, 2.0]
    assert PixelsAndProprio(Fields(), 30, "wrist", "none").reset()[0]["proprio"].tolist() == [0.0]
    with pytest.raises(ValueError, match="choose --pixels_key front or wrist"):
        PixelsAndProprio(Fields(), 30)
    with pytest.raises(ValueError, match="no images in 'goal'"):
        PixelsAndProprio(Fields(), 30, "goal")


def test_a_vector_is_not_taken_by_itself() -> None:
    env = create_env("Swing-v0", {}, 32, 10)
    assert env.observation_space["proprio"].shape == (1,)  # type: ignore[index]
    asked = create_env("Swing-v0", {"proprio_keys": "observation[2]"}, 32, 10)
    obs, info = asked.reset(seed=0)
    assert obs["proprio"][0] == np.float32(info["state"][2])


def test_how_an_environment_is_seen_is_stored_with_its_arguments() -> None:
    stored = {"layout": "U", "proprio_keys": "qpos", "success": "ball:1"}
    assert view_of(stored) == {"proprio_keys": "qpos", "success": "ball:1"}
    assert chosen_kwargs({}, stored) == stored
    assert chosen_kwargs({"success": "ball:2"}, stored) == {**stored, "success": "ball:2"}
    assert chosen_kwargs({"layout": "S"}, stored) == {**stored, "layout": "S"}
    assert chosen_kwargs({"size": 3}, {"layout": "U"}) == {"size": 3}


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.integers(1, 4), min_size=1))
def test_parts_survive_being_spelled(widths: dict[str, int]) -> None:
    parts = parse_parts(",".join(widths), widths)
    assert parse_parts(",".join(map(spelled, parts)), widths) == parts
    assert len(part_names(parts)) == sum(widths.values())


def test_names_of_a_robot() -> None:
    own = ("proprio", "agent_pos", "robot0_eef_pos", "qpos", "arm.qvel", "observation.state")
    others = ("state", "observation", "achieved_goal", "object", "block_pos", "infos.qpos")
    assert robots_own(dict.fromkeys([*own, *others])) == list(own)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("robot.0.cell", ("robot.0.cell", slice(0, 2))),
        ("robot[0].cell", ("robot.0.cell", slice(0, 2))),
        ("robot[0].cell[1]", ("robot.0.cell", slice(1, 2))),
        ("robot[1]", ("robot.1", slice(0, 4))),
        ("robot.1[0:2]", ("robot.1", slice(0, 2))),
        ("qpos[1]", ("qpos", slice(1, 2))),
    ],
)
def test_entries_of_tuples_have_names(text: str, part: tuple[str, slice]) -> None:
    assert parse_parts(text, {"robot.0.cell": 2, "robot.1": 4, "qpos": 3}) == (part,)


def test_tuples_and_nested_dicts_become_proprio_and_pixels() -> None:
    class Nested(Fields):
        """Everything in a Tuple."""

        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Tuple(  # type: ignore[assignment]
                [spaces.Discrete(3), self.observation_space]
            )

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            obs, info = super().reset(seed=seed)
            return (2, obs), info

    env = PixelsAndProprio(Nested(), 30, "1.wrist", "0,1.arm.qpos[1]")
    obs, _ = env.reset()
    assert obs["proprio"].tolist() == [0.0, 0.0, 1.0, 2.0]
    assert (obs["pixels"][..., 0] == 201).all() and (obs["pixels"][..., 1] == 1).all()
    own = PixelsAndProprio(Nested(), 30, "1.wrist")
    assert own.proprio_names == ("1.arm.qpos_0", "1.arm.qpos_1")


def test_nested_fields() -> None:
    space = spaces.Dict({"a": spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 1, (2,))])})
    assert list(space_fields(space)) == ["a.0", "a.1"] == list(number_fields(space))
    assert field({"a": (2, np.ones(2))}, "a.0") == 2
    assert field({"a.b": 7}, "a.b") == 7
