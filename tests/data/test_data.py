"""Collection, the dataset on disk, and the latent cache."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import started

from worldmodel.data.cache import LatentCache
from worldmodel.data.collection import CollectConfig, collect, episode_seed
from worldmodel.data.dataset import Dataset, open_dataset, split
from worldmodel.errors import UserError

# Somebody else's environment: a vector observation, a picture that is not square, episodes that end
# early, contact in its info. A module of its own, because worker processes must import it.
DOT = """
import os, time
import gymnasium as gym
import numpy as np

class Dot(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    def __init__(self, render_mode=None, radius=3, actions="box"):
        self.render_mode, self.radius = render_mode, radius
        self.observation_space = gym.spaces.Box(-10, 10, (2,), np.float64)
        box = gym.spaces.Box(-0.1, 0.1, (2,), np.float32)
        self.action_space = box if actions == "box" else gym.spaces.Discrete(3)
    def _info(self):
        return {"state": self.at.copy(), "contact": bool(abs(self.at).max() > 0.9)}
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-1, 1, 2)
        return self.at.copy(), self._info()
    def step(self, action):
        time.sleep(float(os.environ.get("DOT_SLEEP", 0)))
        self.at = self.at + action
        return self.at.copy(), 0.0, bool(abs(self.at).max() > 1.1), False, self._info()
    def render(self):
        rows, columns = np.mgrid[0:48, 0:64]
        x, y = 32 + 20 * self.at[0], 24 + 20 * self.at[1]
        dot = (columns - x) ** 2 + (rows - y) ** 2 < self.radius**2
        return np.where(dot[..., None], [255, 80, 0], [230, 230, 240]).astype(np.uint8)

class Blind(Dot):
    metadata = {"render_modes": [], "render_fps": 10}
    def __init__(self):
        super().__init__()

gym.register("Dot-v0", "dot_env:Dot")
gym.register("Blind-v0", "dot_env:Blind")
"""


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("module")
    (folder / "dot_env.py").write_text(DOT)
    sys.path.insert(0, str(folder))  # worker processes take over sys.path
    return folder


def dot(out: Path, **changes: Any) -> CollectConfig:
    settings: dict[str, Any] = {
        "env": "dot_env:Dot-v0",
        "episodes": 45,
        "steps": 12,
        "seed": 3,
        "workers": 1,
        "policy": "random",
        "image_size": 32,
    }
    return CollectConfig(out=out, **{**settings, **changes})


@pytest.fixture(scope="session")
def recorded(module: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 45 episodes; tests copy it before they change it."""
    out = tmp_path_factory.mktemp("recorded") / "dot-v3"
    collect(dot(out))
    return out


def copy(recorded: Path, to: Path) -> Path:
    shutil.copytree(recorded, to)
    return to


def command(module: Path, out: Path, *flags: str, **environment: str) -> dict[str, Any]:
    root = Path(__file__).parents[2]
    arguments = ["--env", "dot_env:Dot-v0", "--out", str(out), "--episodes", "45", "--steps", "12"]
    arguments += ["--seed", "3", "--policy", "random", "--image_size", "32", "--workers", "2"]
    return {
        "args": [sys.executable, "-m", "worldmodel.collect", *arguments, *flags],
        "cwd": root,
        "env": {**os.environ, "PYTHONPATH": f"{root}:{module}", **environment},
    }


def same_files(a: Path, b: Path) -> bool:
    names = sorted(p.name for p in (a / "data").glob("*.hdf5"))
    assert names == sorted(p.name for p in (b / "data").glob("*.hdf5"))
    return all((a / "data" / n).read_bytes() == (b / "data" / n).read_bytes() for n in names)


# --------------------------------------------------------------------------------- collection
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


def test_workers_change_nothing(recorded: Path, tmp_path: Path) -> None:
    collect(dot(tmp_path / "dot", workers=2))
    assert same_files(recorded, tmp_path / "dot")
    assert open_dataset(tmp_path / "dot").hash == open_dataset(recorded).hash


def test_bundled_env_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    both = []
    for workers in (1, 2):
        config = dot(
            tmp_path / f"{workers}",
            env="worldmodel/PushT-v0",
            policy="explore",
            episodes=21,
            steps=4,
            workers=workers,
        )
        result = collect(config)
        assert 0 <= result["contact"] <= 1 and result["frames"] == 21 * 5
        both.append(open_dataset(config.out))
    assert same_files(both[0].path, both[1].path)
    assert both[0].hash == both[1].hash and both[0].state_names[0] != ""
    assert both[0].proprio.shape == (105, len(both[0].proprio_names))


def test_another_seed_is_another_dataset(recorded: Path, tmp_path: Path) -> None:
    collect(dot(tmp_path / "dot", seed=4, episodes=2))
    other, data = open_dataset(tmp_path / "dot"), open_dataset(recorded)
    assert other.hash != data.hash
    assert not np.array_equal(other.proprio[0], data.proprio[0])


@pytest.mark.slow
def test_killed_collection_goes_on_and_ends_the_same(
    recorded: Path, module: Path, tmp_path: Path
) -> None:
    out = tmp_path / "dot-v3"
    options: dict[str, Any] = {"start_new_session": True, "stderr": subprocess.DEVNULL}
    deadline = time.monotonic() + 60
    with started(**command(module, out, DOT_SLEEP="0.003"), **options) as process:
        while not list(out.glob("data/shard-*.hdf5")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("data/shard-*.hdf5")}
    assert 0 < len(kept) < 3
    with pytest.raises(UserError, match="not complete: run its .* again"):
        open_dataset(out)
    while _alive(process.pid):  # the worker must notice, or it would write into the second run
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (out / "data" / ".shard-of-a-killed-run").write_bytes(b"half")
    again = subprocess.run(**command(module, out), capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert same_files(recorded, out) and open_dataset(out).hash == open_dataset(recorded).hash
    assert all((out / "data" / name).stat().st_mtime_ns == mtime for name, mtime in kept.items())
    assert not list(out.glob("data/.*"))
    for line in ("episodes   45", "frames ", "frames/s", "of steps", " MB in", "dot-v3"):
        assert line in again.stdout
    third = subprocess.run(**command(module, out), capture_output=True, text=True, timeout=60)
    assert "nothing was missing" in third.stdout


def _alive(session: int) -> bool:
    """Whether any process of this session is left."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == session and fields[0] != "Z":
            return True
    return False


def test_ctrl_c_keeps_what_is_finished(recorded: Path, module: Path, tmp_path: Path) -> None:
    out = tmp_path / "dot"
    options: dict[str, Any] = {"start_new_session": True, "stderr": subprocess.PIPE}
    with started(**command(module, out, DOT_SLEEP="0.003"), **options) as process:
        while not list(out.glob("data/shard-*.hdf5")):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: parent and workers
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in printed
    assert not list(out.glob("data/.*")) and not (out / "data" / "metadata.json").exists()


def test_a_dataset_can_be_extended(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "dot"
    collect(dot(out, episodes=25))
    first = open_dataset(out)
    result = collect(dot(out, episodes=45))
    assert result["new_frames"] < result["frames"]  # the full first shard was not collected again
    assert same_files(recorded, out)
    assert open_dataset(out).hash != first.hash
    with pytest.raises(UserError, match="45 episodes: ask for as many or more, not 25"):
        collect(dot(out, episodes=25))


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "worldmodel/PushTT-v0"}, "no environment 'worldmodel/PushTT-v0'.*PushT-v0"),
        ({"env": "no_such_module:Dot-v0"}, "no environment.*no_such_module"),
        ({"env": "dot_env:Blind-v0"}, "Blind-v0"),
        ({"env_kwargs": {"colour": "red"}}, "cannot make .*colour"),
        ({"env_kwargs": {"actions": "discrete"}}, "only Box"),
        ({"env_kwargs": {"render_mode": None}}, "shows no pixels"),
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "its seed is 3, not 4"),
        ({"steps": 13}, "its steps is 12, not 13"),
        ({"env_kwargs": {"radius": 5}}, "its env_kwargs is {}, not {'radius': 5}"),
    ],
)
def test_other_settings_need_another_folder(
    recorded: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        collect(dot(recorded, **changes))


def test_a_folder_of_something_else_is_left_alone(module: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="already holds thesis.tex"):
        collect(dot(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make folder"):
        collect(dot(tmp_path / "file" / "out"))


def test_full_disk_is_one_line_and_no_half_file(module: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    out = tmp_path / "dot"
    options: dict[str, Any] = {"preexec_fn": limit, "timeout": 60}
    done = subprocess.run(**command(module, out), capture_output=True, text=True, **options)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cannot write" in errors[0] and "File too large" in errors[0]
    assert "Traceback" not in done.stderr
    assert not list(out.glob("data/*")) and not list(out.glob("data/.*"))


def test_workers_do_not_import_torch(recorded: Path) -> None:
    code = "import worldmodel.collect, envs, sys; raise SystemExit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


# ------------------------------------------------------------------------------------ dataset
def test_minari_reads_it_losslessly(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(recorded.parent))
    assert "dot-v3" in minari.list_local_datasets()
    theirs = minari.load_dataset("dot-v3")
    ours = open_dataset(recorded)
    assert theirs.total_episodes == 45 and theirs.total_steps == ours.lengths.sum()
    for number, episode in enumerate(theirs.iterate_episodes()):
        rows = ours.frames(number)
        assert np.array_equal(episode.observations["pixels"], ours.pixels(rows))
        assert np.array_equal(episode.observations["proprio"], ours.proprio[rows])
        assert np.array_equal(episode.actions, ours.actions[rows][:-1])
        assert np.array_equal(episode.infos["state"], ours.state[rows])  # type: ignore[index]
        assert len(episode.rewards) == ours.lengths[number]
        assert episode.terminations[-1] != episode.truncations[-1]
    assert theirs.recover_environment().spec.id == "Dot-v0"  # type: ignore[union-attr]
    assert theirs.observation_space["pixels"].shape == (32, 32, 3)  # type: ignore[index]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari asks for authors and permalinks
def test_reads_datasets_that_minari_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of somebody's robot: pixels in one file, no infos, no state, JPEG or not."""
    import gymnasium as gym
    import minari
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 200, 40, dtype=np.uint8)[None, :, None, None]
    pixels = smooth + rng.integers(0, 9, (6, 1, 1, 3)).astype(np.uint8) + np.zeros((6, 40, 40, 3))
    pixels = pixels.astype(np.uint8)
    for jpeg in (False, True):
        minari.create_dataset_from_buffers(
            f"robot/logs{jpeg:d}-v0",
            [
                EpisodeBuffer(
                    id=i,
                    observations={"pixels": pixels[3 * i : 3 * i + 3]},
                    actions=np.full((2, 2), i, np.float32),  # type: ignore[arg-type]
                    rewards=[0.0, 0.0],
                    terminations=[False, False],
                    truncations=[False, True],
                )
                for i in range(2)
            ],
            observation_space=gym.spaces.Dict(
                {"pixels": gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)}
            ),
            action_space=gym.spaces.Box(-1, 1, (2,), np.float32),
            jpeg_encoding=jpeg,
        )
    raw, lossy = (open_dataset(tmp_path / "robot" / f"logs{jpeg}-v0") for jpeg in (0, 1))
    assert np.array_equal(raw.pixels(slice(None)), pixels)
    assert np.abs(lossy.pixels(slice(None)).astype(int) - pixels).mean() < 4
    assert raw.state is None and raw.proprio.shape == (6, 1)
    assert raw.actions[[0, 3], 0].tolist() == [0.0, 1.0] and raw.hash != lossy.hash
    assert np.array_equal(raw.action_high, [1, 1])


def test_pixels_in_any_order(recorded: Path) -> None:
    data = open_dataset(recorded)
    everything = data.pixels(slice(None))
    assert everything.shape == (len(data), 32, 32, 3)
    index = np.random.default_rng(0).integers(0, len(data), 200)
    assert np.array_equal(data.pixels(index), everything[index])
    assert np.array_equal(data.pixels(slice(40, 3, -7)), everything[40:3:-7])
    assert np.array_equal(data.pixels(5), everything[5])
    assert data.pixels([]).shape == (0, 32, 32, 3)
    with pytest.raises(IndexError, match="there are"):
        data.pixels([len(data)])
    with pytest.raises(IndexError, match="episode is 45"):
        data.frames(45)
    clone = pickle.loads(pickle.dumps(data))  # as a DataLoader's workers get it
    assert np.array_equal(clone.pixels([7, 3]), everything[[7, 3]])


def test_missing_and_truncated_files(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no dataset in .*worldmodel.collect"):
        open_dataset(tmp_path / "nothing")
    damaged = copy(recorded, tmp_path / "a")
    shard = sorted(damaged.glob("data/shard-*"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=rf"{shard.name} has {len(whole) - 100} bytes instead"):
        open_dataset(damaged)
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} is missing"):
        open_dataset(damaged)
    collect(dot(damaged))  # what the message said
    assert same_files(recorded, damaged)
    (damaged / "data" / "main_data.hdf5").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        open_dataset(damaged)
    (damaged / "data" / "metadata.json").write_text("{")
    with pytest.raises(UserError, match="metadata.json"):
        open_dataset(damaged)


def test_damaged_pixels_are_noticed(recorded: Path, tmp_path: Path) -> None:
    import h5py

    damaged = copy(recorded, tmp_path / "a")
    shard = sorted(damaged.glob("data/shard-*"))[0]
    with h5py.File(shard) as file:
        at = file["episode_2/observations/pixels"].id.get_chunk_info(1)
    content = bytearray(shard.read_bytes())
    content[at.byte_offset + at.size // 2] ^= 0xFF
    shard.write_bytes(content)
    data = open_dataset(damaged)
    assert data.pixels(data.frames(1)).any()
    with pytest.raises(UserError, match=f"pixels of episode 2.*delete .*{shard.name}"):
        data.pixels(data.frames(2))


def test_split_is_fair_and_stable(recorded: Path) -> None:
    data = open_dataset(recorded)
    train, held = split(data, 0.1)
    assert len(held) == 4 and len(train) == 41
    assert sorted([*train, *held]) == list(range(45))
    assert len(split(data, 0.0)[1]) == 0
    assert len(split(data, 0.001)[1]) == 1  # never silently none
    assert len(split(data, 0.2)[1]) == 9
    short = _first(data, 20)
    assert set(split(short, 0.1)[1]) == {e for e in held if e < 20}
    with pytest.raises(ValueError, match="held_out is 1"):
        split(data, 1.0)
    with pytest.raises(ValueError, match="leave none"):
        split(_first(data, 1), 0.5)


def _first(data: Dataset, episodes: int) -> Dataset:
    import dataclasses

    return dataclasses.replace(data, lengths=data.lengths[:episodes])


# ------------------------------------------------------------------------------ latent cache
class Grid:
    """An encoder: mean colours of the four quarters, times a weight. Counts what it encodes."""

    num_tokens, dim = 4, 3

    def __init__(self, weight: float = 1.0, stop_after: int = 10**9) -> None:
        self.weight, self.hash = weight, f"grid-{weight}".ljust(32, "0")
        self.frames, self.stop_after = 0, stop_after

    def encode(self, pixels: Any) -> Any:
        if self.frames >= self.stop_after:
            raise KeyboardInterrupt
        self.frames += len(pixels)
        quarters = pixels.float().reshape(len(pixels), 2, 16, 2, 16, 3).mean((2, 4))
        return self.weight * quarters.reshape(len(pixels), 4, 3)


def tokens_of(data: Dataset, weight: float = 1.0) -> Any:
    pixels = data.pixels(slice(None)).astype(np.float32)
    quarters = pixels.reshape(len(data), 2, 16, 2, 16, 3).mean((2, 4))
    return (weight * quarters.reshape(len(data), 4, 3)).astype(np.float16)


def test_cache_is_built_once_and_right(recorded: Path, tmp_path: Path) -> None:
    data, encoder = open_dataset(recorded), Grid()
    cache = LatentCache.open_or_build(data, encoder, tmp_path, batch=64)
    assert cache.tokens.shape == (len(data), 4, 3) and cache.tokens.dtype == np.float16
    np.testing.assert_allclose(cache.tokens, tokens_of(data), rtol=2e-3)
    assert encoder.frames == len(data)
    with pytest.raises(ValueError, match="read-only"):
        cache.tokens[0] = 0
    again = LatentCache.open_or_build(data, encoder, tmp_path, batch=32)
    assert encoder.frames == len(data) and np.array_equal(again.tokens, cache.tokens)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".lock", ".tokens"]


def test_another_encoder_or_dataset_has_its_own_cache(recorded: Path, tmp_path: Path) -> None:
    data = open_dataset(recorded)
    LatentCache.open_or_build(data, Grid(1.0), tmp_path)
    other = LatentCache.open_or_build(data, Grid(2.0), tmp_path)
    np.testing.assert_allclose(other.tokens, tokens_of(data, 2.0), rtol=2e-3)
    assert len(list(tmp_path.glob("*.tokens"))) == 2


@pytest.mark.parametrize("harm", ["flip", "truncate", "stale", "no header", "bad header"])
def test_damaged_cache_is_rebuilt(recorded: Path, tmp_path: Path, harm: str) -> None:
    data = open_dataset(recorded)
    path = LatentCache.open_or_build(data, Grid(), tmp_path, batch=16).path
    header = path.with_suffix(".json")
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[17 * 24 + 5] ^= 1
        path.write_bytes(content)
    elif harm == "truncate":
        path.write_bytes(content[:-24])
    elif harm == "stale":
        header.write_text(json.dumps({**json.loads(header.read_text()), "encoder": "old"}))
    elif harm == "no header":
        header.unlink()
    else:
        header.write_text("[")
    encoder = Grid()
    cache = LatentCache.open_or_build(data, encoder, tmp_path, batch=16)
    assert encoder.frames == len(data)
    np.testing.assert_allclose(cache.tokens, tokens_of(data), rtol=2e-3)


def test_copied_cache_is_used(recorded: Path, tmp_path: Path) -> None:
    data = open_dataset(recorded)
    path = LatentCache.open_or_build(data, Grid(), tmp_path).path
    os.utime(path, (1, 1))
    encoder = Grid()
    LatentCache.open_or_build(data, encoder, tmp_path)
    assert encoder.frames == 0
    assert json.loads(path.with_suffix(".json").read_text())["mtime_ns"] == 10**9


@pytest.mark.parametrize("harm", [False, True])
def test_interrupted_build_goes_on(recorded: Path, tmp_path: Path, harm: bool) -> None:
    data = open_dataset(recorded)
    with pytest.raises(KeyboardInterrupt):
        LatentCache.open_or_build(data, Grid(stop_after=64), tmp_path, batch=16)
    assert not list(tmp_path.glob("*.tokens"))
    (partial,) = tmp_path.glob("*.partial")
    content = bytearray(partial.read_bytes())
    if harm:
        content[20 * 24] ^= 1  # in the second batch: only the first still counts
    partial.write_bytes(content + b"torn")
    encoder = Grid()
    cache = LatentCache.open_or_build(data, encoder, tmp_path, batch=16)
    assert encoder.frames == len(data) - (16 if harm else 64)
    np.testing.assert_allclose(cache.tokens, tokens_of(data), rtol=2e-3)
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob("*.crc"))


def test_cache_says_what_is_wrong(recorded: Path, tmp_path: Path) -> None:
    data = open_dataset(recorded)
    with pytest.raises(UserError, match="not finite in float16"):
        LatentCache.open_or_build(data, Grid(1e6), tmp_path)
    wrong = Grid()
    wrong.num_tokens = 5
    with pytest.raises(UserError, match="it promised"):
        LatentCache.open_or_build(data, wrong, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the latent cache"):
        LatentCache.open_or_build(data, Grid(), tmp_path / "file" / "root")
