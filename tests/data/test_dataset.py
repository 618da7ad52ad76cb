"""Datasets: of this package and of Minari, damaged ones, the split."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from dot import copy, dot, same_files

from worldmodel.data.collection import collect
from worldmodel.data.dataset import Dataset, open_dataset, split
from worldmodel.errors import UserError


def test_minari_reads_collected_datasets(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_damaged_pixels_are_detected(recorded: Path, tmp_path: Path) -> None:
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
