"""Recording of episodes: every array, hold actions and names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dot import copy, dot

from worldmodel.data.collection import collect
from worldmodel.data.dataset import open_dataset
from worldmodel.data.image_fit import ImageFit
from worldmodel.data.recording import episode_seed, parse_hold
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.measure.tasks import begin, render, sample_tasks


def test_any_env_is_recorded_faithfully(recorded: Path) -> None:
    """Replaying seed and actions in a fresh environment gives every array again."""
    import gymnasium as gym
    from PIL import Image

    data = open_dataset(recorded)
    assert (data.episodes, data.env_id, data.pixels_shape) == (45, "dot_env:Dot-v0", (32, 32, 3))
    assert data.state is not None and data.contact is not None
    assert data.lengths.min() < 12 and data.lengths.max() == 12  # some ended early
    env = gym.make("dot_env:Dot-v0", render_mode="rgb_array")
    for episode in (0, 21, 44):
        rows = data.frames(episode)
        assert data.seeds[episode] == episode_seed(3, episode)
        obs, info = env.reset(seed=int(data.seeds[episode]))
        pixels = data.pixels(rows)
        for t in range(rows.stop - rows.start):
            shown = Image.fromarray(np.asarray(env.render()))
            shown = shown.resize((32, 32), Image.Resampling.BILINEAR)
            assert np.array_equal(pixels[t], np.asarray(shown))
            assert np.array_equal(data.proprio[rows][t], obs.astype(np.float32))
            assert np.array_equal(data.state[rows][t], info["state"])
            assert data.contact[rows][t] == info["contact"]
            assert data.has_action[rows][t] == (t < data.lengths[episode])
            if data.has_action[rows][t]:
                obs, _, _, _, info = env.step(data.actions[rows][t])
    assert np.isnan(data.actions[~data.has_action]).all()
    assert np.isfinite(data.actions[data.has_action]).all()


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "worldmodel/PushTT-v0"}, "no environment 'worldmodel/PushTT-v0'.*PushT-v0"),
        ({"env": "no_such_module:Dot-v0"}, "no environment.*no_such_module"),
        ({"env": "dot_env:Blind-v0"}, "Blind-v0"),
        ({"env_kwargs": {"colour": "red"}}, "cannot make .*colour"),
        ({"env_kwargs": {"actions": "binary"}}, "only Box, Discrete and MultiDiscrete"),
        (
            {"env_kwargs": {"actions": "discrete"}, "hold": "zero"},
            "hold is 'zero', but actions are choices: use repeat, or the number",
        ),
        (
            {"env_kwargs": {"actions": "endless"}},
            "of an action is bounded by -inf and inf",
        ),
        (
            {"env_kwargs": {"actions": "constant"}},
            "of an action is bounded by 0.1 and 0.1",
        ),
        ({"env_kwargs": {"render_mode": None}}, "shows no pixels"),
        ({"env_kwargs": {"pixels_key": "image"}}, "no images in 'image'"),
        ({"env_kwargs": {"proprio_keys": "arm"}}, "no field 'arm': there are observation"),
        ({"policy": "dot_env:fast"}, "no policy 'dot_env:fast'"),
        ({"policy": "clever"}, "policy is 'clever'"),
        ({"episodes": 0}, "episodes is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"image_size": 4}, "image_size is 4"),
    ],
)
def test_bad_settings_are_named(
    module: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        collect(dot(tmp_path / "dot", **changes))
    assert not (tmp_path / "dot").exists()


def test_a_policy_of_ones_own_acts(module: Path, tmp_path: Path) -> None:
    collect(dot(tmp_path / "dot", policy="dot_env:drift", episodes=3))
    data = open_dataset(tmp_path / "dot")
    for episode in range(3):
        actions = data.actions[data.frames(episode)][:-1]
        assert (actions == actions[0]).all() and actions.any()


BASELINES = """
import json
import numpy as np

class PPO:
    @classmethod
    def load(cls, path, device):
        model = cls()
        model.width = json.loads(open(path).read())["width"]
        return model
    def set_random_seed(self, seed):
        self.rng = np.random.default_rng(seed)
    def predict(self, obs, deterministic):
        if obs.shape != (self.width,):
            raise ValueError(f"Unexpected observation shape {obs.shape}")
        return (-0.1 * np.sign(obs) * self.rng.uniform()).astype(np.float32), None
"""


def test_a_trained_policy_acts_on_the_environments_own_observations(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the interface of Stable-Baselines3, which is heavy."""
    archive = tmp_path / "policy.zip"
    with pytest.raises(UserError, match=r"needs pip install 'worldmodel\[sb3\]'"):
        monkeypatch.setitem(sys.modules, "stable_baselines3", None)  # as if it were missing
        collect(dot(tmp_path / "dot", policy=f"PPO:{archive}"))
    monkeypatch.delitem(sys.modules, "stable_baselines3")
    (tmp_path / "stable_baselines3.py").write_text(BASELINES)
    monkeypatch.syspath_prepend(tmp_path)
    archive.write_text('{"width": 2}')
    kwargs = {"proprio_keys": "observation[0]"}  # less than the policy needs
    for name in ("one", "two"):
        collect(dot(tmp_path / name, policy=f"PPO:{archive}", episodes=2, env_kwargs=kwargs))
    data = open_dataset(tmp_path / "one")
    assert data.hash == open_dataset(tmp_path / "two").hash
    towards_centre = data.actions[data.has_action][:, 0] * data.proprio[data.has_action][:, 0]
    assert (towards_centre < 0).all() and len(np.unique(towards_centre)) > 10

    for name, message in (
        (str(archive), "write the algorithm before the file, as --policy PPO:"),
        (f"DQN:{archive}", "made by DQN: write the algorithm"),
        ("PPO:none.zip", "no policy at none.zip"),
    ):
        with pytest.raises(UserError, match=message):
            collect(dot(tmp_path / "dot", policy=name))
    (tmp_path / "other.zip").write_text("{}")
    with pytest.raises(UserError, match="other.zip cannot be loaded as PPO"):
        collect(dot(tmp_path / "dot", policy=f"PPO:{tmp_path / 'other.zip'}"))
    (tmp_path / "wide.zip").write_text('{"width": 3}')
    with pytest.raises(UserError, match=r"policy PPO:.*: Unexpected observation shape \(2,\)"):
        collect(dot(tmp_path / "dot", policy=f"PPO:{tmp_path / 'wide.zip'}"))


def test_what_is_taken_of_observations_is_said(
    module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect(dot(tmp_path / "dot", episodes=1, env_kwargs={"radius": 4}))
    printed = capsys.readouterr().err
    assert "pixels: what render() shows, 64 x 48" in printed
    assert "; proprio: none (--proprio_keys can name observation)\n" in printed
    assert not open_dataset(tmp_path / "dot").proprio.any()


def test_choices_are_recorded_as_they_were_executed(module: Path, tmp_path: Path) -> None:
    """Positions move by what the environment was given, so they tell whether it is what is
    stored."""
    for actions, choices, hold, held in (
        ("discrete", (3,), "1", [0.0, 1.0, 0.0]),
        ("several", (2, 3), "1,0", [0.0, 1.0, 1.0, 0.0, 0.0]),
    ):
        kwargs = {"actions": actions, "proprio_keys": "observation"}
        collect(dot(tmp_path / actions, episodes=3, env_kwargs=kwargs, hold=hold))
        data = open_dataset(tmp_path / actions)
        assert data.choices == choices and data.hold == held
        assert (data.action_low == 0).all() and (data.action_high == 1).all()
        for episode in range(3):
            rows = data.frames(episode)
            parts = np.split(data.actions[rows][:-1], np.cumsum(choices)[:-1], 1)
            for part in parts:
                assert ((part == 0) | (part == 1)).all() and (part.sum(1) == 1).all()
            chosen = np.stack([part.argmax(1) for part in parts], 1)
            steps = 0.05 * (chosen - 1 if actions == "discrete" else chosen)
            moved = np.diff(data.proprio[rows], axis=0)
            np.testing.assert_allclose(moved, np.broadcast_to(steps, moved.shape), atol=1e-5)
            assert len(np.unique(chosen)) > 1


def test_a_policy_may_return_the_environments_own_choices(module: Path, tmp_path: Path) -> None:
    kwargs = {"actions": "discrete"}
    collect(dot(tmp_path / "dot", policy="dot_env:last_option", episodes=2, env_kwargs=kwargs))
    data = open_dataset(tmp_path / "dot")
    assert (data.actions[data.has_action] == [0, 0, 1]).all()


@pytest.mark.parametrize(
    ("text", "hold"),
    [("repeat", "repeat"), ("0", None), ("1,3", None), ("1,-1", None), ("1,2", [0, 1, 0, 0, 1])],
)
def test_a_hold_of_choices_is_an_option_of_each(text: str, hold: Any) -> None:
    if hold is not None:
        assert parse_hold(text, np.zeros(5), np.ones(5), (2, 3)) == hold
        return
    with pytest.raises(UserError, match=r"the number of the option for each \(0 to 1, 0 to 2\)"):
        parse_hold(text, np.zeros(5), np.ones(5), (2, 3))


@pytest.mark.parametrize(
    ("fit", "said"), [("pad", "padded"), ("crop", "cropped"), ("stretch", "squeezed")]
)
def test_images_that_are_not_square_are_fitted_everywhere_alike(
    module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fit: str, said: str
) -> None:
    kwargs = {"fit": fit, "success": "observation:0.01"}
    collect(dot(tmp_path / "dot", episodes=2, env_kwargs=kwargs))
    assert f"64 x 48, {said} to a square" in capsys.readouterr().err
    data = open_dataset(tmp_path / "dot")
    assert data.fit == fit
    env: Any = make_env(data.env_id, data.env_kwargs, 32)
    (task,) = sample_tasks(env, 1, 0, 3)
    obs, _ = begin(env, task)
    np.testing.assert_array_equal(obs["pixels"], ImageFit(32, fit).image(env.unwrapped.render()))
    np.testing.assert_array_equal(obs["pixels"], render(env, task.start_state))
    black = (data.pixels(slice(0, 3))[:, [0, -1]] == 0).all()
    assert black == (fit == "pad")
    with pytest.raises(UserError, match="fit is 'fill': choose one of pad, crop, stretch"):
        make_env(data.env_id, {"fit": "fill"}, 32)


@pytest.mark.parametrize(
    ("text", "hold"),
    [("zero", [0.0, 0.1]), ("repeat", "repeat"), ("-0.5,0.25", [-0.5, 0.25])],
)
def test_hold_actions_are_parsed(text: str, hold: Any) -> None:
    assert parse_hold(text, np.array([-1, 0.1]), np.array([1, 1])) == hold


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "hold has 1 numbers, but an action has 2"),
        ("2,0", r"hold is \[2.0, 0.0\]: outside the bounds"),
        ("nan,0", "outside the bounds"),
        ("still", "hold is 'still': use zero, repeat, or 2 numbers"),
    ],
)
def test_unusable_hold_actions_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_hold(text, -np.ones(2), np.ones(2))


def test_hold_is_stored_and_does_not_change_the_content(recorded: Path, tmp_path: Path) -> None:
    assert open_dataset(recorded).hold is None  # nobody declared one
    declared = copy(recorded, tmp_path / "dot-v3")
    collect(dot(declared, hold="0.05,0"))
    data = open_dataset(declared)
    assert data.hold == [0.05, 0.0] and data.hash == open_dataset(recorded).hash


def test_a_task_supplies_hold_and_names(tmp_path: Path) -> None:
    config = dot(
        tmp_path / "chips",
        env="worldmodel/GranularChips-v0",
        policy="explore",
        episodes=2,
        steps=2,
    )
    collect(config)
    data = open_dataset(config.out)
    assert data.hold == [0.0] * 4
    assert data.action_names == ("start_x", "start_y", "end_x", "end_y")
