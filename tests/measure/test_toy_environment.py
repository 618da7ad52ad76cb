"""A new environment is one file: the whole pipeline runs on it without other changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline import run_pipeline

TOY = '''
"""A point that moves on a plane, drawn with NumPy."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.task import Task


class Toy(gym.Env, Task):
    state_names = proprio_names = ("x", "y")
    action_names = ("dx", "dy")
    action_space = spaces.Box(-0.1, 0.1, (2,), np.float32)
    observation_space = spaces.Dict(
        pixels=spaces.Box(0, 255, (48, 48, 3), np.uint8),
        proprio=spaces.Box(0.0, 1.0, (2,), np.float32),
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        start = self.np_random.uniform(0.0, 1.0, 2)
        self.state = np.array((options or {}).get("state", start), np.float64)
        return self.observation(), {}

    def step(self, action):
        self.state = self.physics(self.state, np.asarray(action)[None])[-1]
        return self.observation(), 0.0, False, False, {}

    def observation(self):
        return {"pixels": self.render_state(self.state), "proprio": self.state.astype(np.float32)}

    def get_state(self):
        return self.state.copy()

    def success(self, state, goal):
        return bool(np.linalg.norm(state - goal) < 0.05)

    def distance(self, states, goal):
        return np.square((states - goal) / 0.05).sum(-1)

    def metrics(self, path, goal):
        return {"moved": float(np.linalg.norm(path[-1] - path[0]))}

    def render_state(self, state):
        rows, columns = np.mgrid[:48, :48] / 47
        inside = (columns - state[0]) ** 2 + (rows - 1 + state[1]) ** 2 < 0.1**2
        return np.where(inside[..., None], (200, 40, 40), (230, 230, 230)).astype(np.uint8)

    def physics(self, state, actions):
        states = [np.asarray(state, np.float64)]
        for action in actions:
            states.append(np.clip(states[-1] + action, 0.0, 1.0))
        return np.stack(states)


gym.register("Toy-v0", entry_point=Toy, max_episode_steps=50)
'''


@pytest.mark.slow
def test_the_whole_chain_runs_on_an_environment_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    result = run_pipeline(tmp_path, "toy:Toy-v0")
    assert result["env_metrics"]["moved"]["mean"] >= 0
    assert result["ceiling"]["episodes"] == 1 and result["random"]["episodes"] == 2
    assert result["goal_offset"] == 6
