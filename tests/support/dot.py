"""An environment of another package, and datasets of it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from worldmodel.data.recording import CollectConfig

# A vector observation, images that are not square, episodes that end early, contact in its info. A
# module of its own, because worker processes must import it.
DOT = """
import os, time
import gymnasium as gym
import numpy as np

class Dot(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    def __init__(self, render_mode=None, radius=3, actions="box"):
        self.render_mode, self.radius = render_mode, radius
        self.observation_space = gym.spaces.Box(-10, 10, (2,), np.float64)
        bounds = {"endless": [-np.inf, np.inf], "constant": [0.1, 0.1]}.get(actions, [-0.1, 0.1])
        box = gym.spaces.Box(*np.float32(bounds), (2,), np.float32)
        others = {
            "discrete": gym.spaces.Discrete(3, start=-1),
            "several": gym.spaces.MultiDiscrete([2, 3]),
            "binary": gym.spaces.MultiBinary(2),
        }
        self.action_space = others.get(actions, box)
    def _info(self):
        return {"state": self.at.copy(), "contact": bool(abs(self.at).max() > 0.9)}
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-1, 1, 2)
        return self.at.copy(), self._info()
    def step(self, action):
        time.sleep(float(os.environ.get("DOT_SLEEP", 0)))
        if not isinstance(self.action_space, gym.spaces.Box):
            assert self.action_space.contains(action), action
            action = 0.05 * np.asarray(action)
        self.at = self.at + action
        return self.at.copy(), 0.0, bool(abs(self.at).max() > 1.1), False, self._info()
    def render(self):
        rows, columns = np.mgrid[0:48, 0:64]
        x, y = 32 + 20 * self.at[0], 24 + 20 * self.at[1]
        dot = (columns - x) ** 2 + (rows - y) ** 2 < self.radius**2
        return np.where(dot[..., None], [255, 80, 0], [230, 230, 240]).astype(np.uint8)

def last_option(env, rng):
    return lambda obs, info: 1

def drift(env, rng):
    step = rng.uniform(-0.1, 0.1, 2)
    return lambda obs, info: step

class Blind(Dot):
    metadata = {"render_modes": [], "render_fps": 10}
    def __init__(self):
        super().__init__()

gym.register("Dot-v0", "dot_env:Dot")
gym.register("Blind-v0", "dot_env:Blind")
"""


def dot(out: Path, **changes: Any) -> CollectConfig:
    settings: dict[str, Any] = {
        "env": "dot_env:Dot-v0",
        "episodes": 45,
        "steps": 12,
        "seed": 3,
        "workers": 1,
        "policy": "random",
        "image_size": 32,
        "env_kwargs": {} if "env" in changes else {"proprio_keys": "observation"},
    }
    return CollectConfig(out=out, **{**settings, **changes})


def copy(recorded: Path, to: Path) -> Path:
    shutil.copytree(recorded, to)
    return to


def command(module: Path, out: Path, *flags: str, **environment: str) -> dict[str, Any]:
    root = Path(__file__).parents[2]
    arguments = ["--env", "dot_env:Dot-v0", "--out", str(out), "--episodes", "45", "--steps", "12"]
    arguments += ["--seed", "3", "--policy", "random", "--image_size", "32", "--workers", "2"]
    arguments += ["--proprio_keys", "observation"]
    return {
        "args": [sys.executable, "-m", "worldmodel.collect", *arguments, *flags],
        "cwd": root,
        "env": {**os.environ, "PYTHONPATH": f"{root}:{module}", **environment},
    }


def same_files(a: Path, b: Path) -> bool:
    names = sorted(p.name for p in (a / "data").glob("*.hdf5"))
    assert names == sorted(p.name for p in (b / "data").glob("*.hdf5"))
    return all((a / "data" / n).read_bytes() == (b / "data" / n).read_bytes() for n in names)
