"""Environments of other packages: the whole chain runs as they are, and with a wrapper that is a
Task."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pipeline import SEARCH, command, run_pipeline

REACHER = '''
"""Gymnasium's Reacher, with a Task: bring the finger tip to where the goal image shows it."""

import gymnasium as gym
import numpy as np

from envs.task import Task


class ReacherTask(gym.Wrapper, Task):
    state_names = ("angle", "elbow_angle", "target_x", "target_y", "v1", "v2", "v3", "v4")
    action_names = ("shoulder", "elbow")

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed)
        if options and "state" in options:
            self.set_state(options["state"])
            obs = self.unwrapped._get_obs()
        return obs, info

    def set_state(self, state):
        self.unwrapped.set_state(np.asarray(state[:4]), np.asarray(state[4:]))

    def get_state(self):
        data = self.unwrapped.data
        return np.concatenate([data.qpos, data.qvel])

    def tip(self, states):
        first, both = states[..., 0], states[..., 0] + states[..., 1]
        return 0.1 * np.stack([np.cos(first), np.sin(first)], -1) + 0.11 * np.stack(
            [np.cos(both), np.sin(both)], -1
        )

    def distance(self, states, goal):
        return np.square((self.tip(states) - self.tip(goal)) / 0.02).sum(-1)

    def success(self, state, goal):
        return bool(self.distance(state, goal) < 1)

    def render_state(self, state):
        before = self.get_state()
        self.set_state(state)
        image = self.env.render()
        self.set_state(before)
        return image

    def physics(self, state, actions):
        before = self.get_state()
        self.set_state(state)
        states = [self.get_state()]
        for action in actions:
            self.unwrapped.do_simulation(action, self.unwrapped.frame_skip)
            states.append(self.get_state())
        self.set_state(before)
        return np.stack(states)

    def hold(self, obs):
        return np.zeros(2, np.float32)


def make(**kwargs):
    return ReacherTask(gym.make("Reacher-v5", **kwargs))


gym.register("ReacherTask-v0", entry_point=make)
'''


GRID = '''
"""Go to the corner of a grid, by choosing one of four directions. Images are 64 x 48."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

MOVES = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])


class Grid(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    action_space = spaces.Discrete(4)
    observation_space = spaces.Dict(
        robot=spaces.Tuple([spaces.Dict(cell=spaces.Box(0.0, 3.0, (2,))), spaces.Discrete(4)]),
        mission=spaces.Text(10),
    )

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = self.np_random.integers(0, 4, 2)
        return self.observation(0), {}

    def step(self, action):
        self.cell = np.clip(self.cell + MOVES[action], 0, 3)
        there = bool((self.cell == 3).all())
        return self.observation(int(action)), float(there), there, False, {"success": there}

    def observation(self, action):
        return {"robot": ({"cell": self.cell.astype(np.float32)}, action), "mission": "corner"}

    def render(self):
        image = np.full((48, 64, 3), 230, np.uint8)
        row, column = self.cell * (12, 16)
        image[row : row + 12, column : column + 16] = (200, 40, 40)
        return image


gym.register("Grid-v0", entry_point=Grid)
'''


@pytest.fixture(autouse=True)
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    if "MUJOCO_GL" not in os.environ:  # Gymnasium's renderer needs it where there is no display
        monkeypatch.setenv("MUJOCO_GL", "egl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "env", "view", "success"),
    [
        ("mujoco", "Reacher-v5", ["--proprio_keys", "observation[0:8]"], "observation[0:4]:0.2"),
        (
            "gym_pusht",
            "gym_pusht:gym_pusht/PushT-v0",
            ["--env_kwargs.obs_type", "pixels_agent_pos"],
            "agent_pos:20",
        ),
        (
            "gymnasium_robotics",
            "gymnasium_robotics:PointMaze_UMaze-v3",
            ["--proprio_keys", "observation"],
            "achieved_goal:0.05",
        ),
    ],
)
def test_the_whole_chain_runs_without_a_line_of_python(
    package: str, env: str, view: list[str], success: str, tmp_path: Path
) -> None:
    pytest.importorskip(package, reason="pip install '.[worlds]'")
    result = run_pipeline(tmp_path, env, view=view, success=success)
    assert result["random"]["episodes"] == 2 and result["ceiling"] is None


@pytest.mark.slow
def test_the_whole_chain_runs_on_gymnasiums_reacher(tmp_path: Path) -> None:
    (tmp_path / "reacher.py").write_text(REACHER)
    result = run_pipeline(tmp_path, "reacher:ReacherTask-v0")
    assert result["ceiling"]["episodes"] == 1 and result["random"]["episodes"] == 2


@pytest.mark.slow
def test_choices_an_own_goal_and_wide_images_need_no_wrapper(tmp_path: Path) -> None:
    (tmp_path / "grid.py").write_text(GRID)
    view = ["--proprio_keys", "robot.0.cell", "--fit", "pad"]
    result = run_pipeline(tmp_path, "grid:Grid-v0", view=view, success="info.success", hold="0")
    assert result["random"]["episodes"] == 2 and result["ceiling"] is None
    config = json.loads((tmp_path / "run/checkpoint/config.json").read_text())
    assert (config["choices"], config["fit"], config["hold"]) == ([4], "pad", [1.0, 0.0, 0.0, 0.0])
    report = json.loads((tmp_path / "plan/report.json").read_text())
    actions = np.array(report["actions"])
    assert (np.sort(actions, 1) == [0, 0, 0, 1]).all() and report["outcome"] is not None
    # An image alone is enough, where the environment itself tells success.
    (tmp_path / "goal.json").unlink()
    few = ("--episodes", 2, "--budget_steps", 4, "--timed_plans", 1, "--batch", 2, *SEARCH)
    own = ("--env", "grid:Grid-v0", "--checkpoint", "run/checkpoint", "--success", "info.success")
    command(tmp_path, "evaluate", *own, "--goal", "goal.png", *few, "--out", "own.json")
    assert json.loads((tmp_path / "own.json").read_text())["goal"] == "goal.png"
