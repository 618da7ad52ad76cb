"""Episodes of other formats become datasets that training reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import EPISODES, LENGTHS, WRITERS, lerobot_2, lerobot_3, write_video

from envs.pictures import FITS
from worldmodel.convert import main
from worldmodel.data.conversion import ConvertConfig, convert
from worldmodel.data.dataset import open_dataset
from worldmodel.data.image_fit import ImageFit, checked_images
from worldmodel.data.video import read_video
from worldmodel.errors import UserError

VIDEO = ("lerobot-3", "dino-wm")


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_frames_actions_and_proprio(name: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = WRITERS[name](tmp_path / "source")
    flags = {"proprio": "velocities"} if name == "dino-wm" else {}
    config = ConvertConfig(source, tmp_path / "out", image_size=96, hold="zero", **flags)
    result = convert(config)
    assert result["format"] == name.removesuffix("-2").removesuffix("-3")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.lengths.tolist() == [count - 1 for count in LENGTHS]
    for index, episode in enumerate(EPISODES):
        part = dataset.frames(index)
        np.testing.assert_allclose(dataset.actions[part][:-1], episode.actions[:-1], atol=1e-6)
        np.testing.assert_allclose(dataset.proprio[part], episode.proprio, atol=1e-6)
        if name.startswith("lerobot"):
            assert dataset.state is None
        else:
            assert dataset.state is not None
            known = slice(part.start, part.stop - (name == "robomimic"))
            np.testing.assert_allclose(
                dataset.state[known], episode.state[: known.stop - known.start]
            )
        away = np.abs(dataset.pixels(part).astype(int) - episode.pixels)
        assert away.mean() < (3 if name in VIDEO else 1e-9)
    bounds = np.concatenate([episode.actions[:-1] for episode in EPISODES])
    np.testing.assert_allclose(dataset.action_low, bounds.min(0), atol=1e-6)
    np.testing.assert_allclose(dataset.action_high, bounds.max(0), atol=1e-6)
    if name in ("lerobot-3", "lerobot-2", "folders"):
        assert dataset.action_names == ("dx", "dy")


@pytest.mark.filterwarnings("ignore:`|env_spec")
def test_minari_of_another_layout_with_jpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    buffers = [
        EpisodeBuffer(
            observations={"camera": episode.pixels, "agent_pos": episode.proprio},
            actions=episode.actions[:-1],
            rewards=np.zeros(len(episode.actions) - 1),
            terminations=np.zeros(len(episode.actions) - 1, bool),
            truncations=np.arange(len(episode.actions) - 1) == len(episode.actions) - 2,
        )
        for episode in EPISODES
    ]
    minari.create_dataset_from_buffers(
        "robot-v0",
        buffers,
        observation_space=gym.spaces.Dict(
            camera=gym.spaces.Box(0, 255, (96, 96, 3), np.uint8),
            agent_pos=gym.spaces.Box(-np.inf, np.inf, (3,)),
        ),
        action_space=gym.spaces.Box(-1, 1, (2,)),
    )
    convert(ConvertConfig(tmp_path / "robot-v0", tmp_path / "out", image_size=96))
    dataset = open_dataset(tmp_path / "out")
    for index, episode in enumerate(EPISODES):
        part = dataset.frames(index)
        np.testing.assert_allclose(dataset.actions[part][:-1], episode.actions[:-1], atol=1e-6)
        np.testing.assert_allclose(dataset.proprio[part], episode.proprio, atol=1e-6)
        assert np.abs(dataset.pixels(part).astype(int) - episode.pixels).mean() < 8


def test_to_lerobot_and_back(tmp_path: Path) -> None:
    source = WRITERS["folders"](tmp_path / "source")
    convert(ConvertConfig(source, tmp_path / "data", image_size=96))
    exported = str(tmp_path / "lerobot")
    arguments = [str(tmp_path / "data"), "--to", "lerobot", "--fps", "15", "--out", exported]
    assert main(arguments) == 0
    assert main(arguments) == 2  # it exists
    convert(ConvertConfig(Path(exported), tmp_path / "back", image_size=96))
    one, other = open_dataset(tmp_path / "data"), open_dataset(tmp_path / "back")
    assert one.lengths.tolist() == other.lengths.tolist()
    assert one.action_names == other.action_names == ("dx", "dy")
    for name in ("actions", "proprio", "state"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
    frames = slice(0, len(one))
    away = np.abs(one.pixels(frames).astype(int) - other.pixels(frames))
    assert away.mean() < 3


def test_what_is_missing_is_converted_and_the_rest_is_kept(tmp_path: Path) -> None:
    source = WRITERS["folders"](tmp_path / "source")
    first = convert(ConvertConfig(source, tmp_path / "out", episodes=2))
    assert first["episodes"] == 2 and first["new_frames"] == LENGTHS[0] + LENGTHS[1]
    every = convert(ConvertConfig(source, tmp_path / "out"))
    assert every["frames"] == sum(LENGTHS)
    again = convert(ConvertConfig(source, tmp_path / "out"))
    assert again["new_frames"] == 0
    with pytest.raises(UserError, match="its image_size is 112, not 64"):
        convert(ConvertConfig(source, tmp_path / "out", image_size=64))


def test_parts_of_fields(tmp_path: Path) -> None:
    source = WRITERS["folders"](tmp_path / "source")
    config = ConvertConfig(source, tmp_path / "out", proprio="state[0:2],proprio[2]", state="none")
    assert "proprio state[0:2], proprio[2:3]" in convert(config)["fields"]
    dataset = open_dataset(tmp_path / "out")
    expected = np.concatenate([EPISODES[0].state[:, :2], EPISODES[0].proprio[:, 2:]], 1)
    np.testing.assert_allclose(dataset.proprio[dataset.frames(0)], expected, atol=1e-6)
    assert dataset.state is None
    for wrong, message in (("state[3:9]", "state has 4 numbers"), ("arm", "no field 'arm'")):
        with pytest.raises(UserError, match=message):
            convert(ConvertConfig(source, tmp_path / "other", proprio=wrong))


def test_truth_and_goal_are_not_taken_for_proprio(tmp_path: Path) -> None:
    source = WRITERS["ogbench"](tmp_path)
    with np.load(source) as file:
        columns = {**file, "desired_goal": file["qpos"], "block_pos": file["qpos"]}
    np.savez(source, **columns)
    convert(ConvertConfig(source, tmp_path / "out"))
    assert open_dataset(tmp_path / "out").proprio_names == ("qpos_0", "qpos_1", "qpos_2")


def test_a_number_that_never_changes_keeps_bounds_apart(tmp_path: Path) -> None:
    source = WRITERS["folders"](tmp_path / "source")
    for folder in source.iterdir():
        actions = np.loadtxt(folder / "actions.csv", delimiter=",", skiprows=1)
        actions[:, 1] = 0.5
        (folder / "actions.csv").unlink()
        np.save(folder / "actions.npy", actions)
    convert(ConvertConfig(source, tmp_path / "out"))
    dataset = open_dataset(tmp_path / "out")
    assert 0.499 < dataset.action_low[1] < 0.5 < dataset.action_high[1] < 0.501


# What is wrong -----------------------------------------------------------------------------------


def test_wrong_data_is_named_with_file_and_step(tmp_path: Path) -> None:
    source = WRITERS["folders"](tmp_path / "source")

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            convert(ConvertConfig(source, tmp_path / "out"))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    proprio = EPISODES[1].proprio.copy()
    proprio[3, 0] = np.nan
    np.save(source / "run9" / "proprio.npy", proprio)
    refused("run9, step 3: proprio is .nan")
    np.save(source / "run9" / "proprio.npy", EPISODES[1].proprio[:3])
    refused("run9 has 7 frames, and proprio is shorter")
    np.save(source / "run9" / "proprio.npy", EPISODES[1].proprio)
    (source / "run9" / "9.png").write_bytes(b"no image")
    refused("cannot read the image .*run9/9.png")
    (source / "run9" / "9.png").unlink()
    (source / "run9" / "8.png").unlink()
    refused("run9 has 5 frames and 7 actions")


def test_a_video_that_ends_early_is_refused(tmp_path: Path) -> None:
    source = lerobot_3(tmp_path / "source")
    video = source / "videos/observation.images.top/chunk-000/file-000.mp4"
    write_video(video, np.concatenate([e.pixels for e in EPISODES])[:-2])
    with pytest.raises(UserError, match=r"file-000.mp4 has 2 frames from second 1.2 on, and 4 are"):
        convert(ConvertConfig(source, tmp_path / "out"))


def test_a_gap_in_the_clock_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = lerobot_2(tmp_path / "source")
    file = source / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(file)
    times = np.array(table["timestamp"].to_pylist())
    times[3:] += 0.2
    column = table.column_names.index("timestamp")
    pq.write_table(table.set_column(column, "timestamp", pa.array(times)), file)
    with pytest.raises(UserError, match=r"episode 1, step 2: 0.3 s until the next frame at 10"):
        convert(ConvertConfig(source, tmp_path / "out"))


def test_metadata_of_other_rows_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = lerobot_3(tmp_path / "source")
    file = source / "meta/episodes/chunk-000/file-000.parquet"
    lines = pq.read_table(file).to_pylist()
    lines[1]["dataset_from_index"] -= 2
    pq.write_table(pa.Table.from_pylist(lines), file)
    with pytest.raises(UserError, match="meta/ and data/ disagree"):
        convert(ConvertConfig(source, tmp_path / "out"))


def test_a_zarr_in_a_zip(tmp_path: Path) -> None:
    source = WRITERS["zarr"](tmp_path)
    packed = shutil.make_archive(str(source), "zip", source)
    assert convert(ConvertConfig(Path(packed), tmp_path / "out"))["format"] == "zarr"
    assert open_dataset(tmp_path / "out").episodes == len(EPISODES)


def test_a_pickle_that_runs_code_is_not_read(tmp_path: Path) -> None:
    source = WRITERS["dino-wm"](tmp_path)
    (source / "seq_lengths.pkl").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(UserError, match="it asks for os.system"):
        convert(ConvertConfig(source, tmp_path / "out"))


def test_several_cameras_need_a_choice(tmp_path: Path) -> None:
    source = WRITERS["robomimic"](tmp_path)
    with h5py.File(source, "a") as file:
        for demo in file["data"].values():
            for group in ("obs", "next_obs"):
                demo[f"{group}/wrist_image"] = demo[f"{group}/agentview_image"][:]
    with pytest.raises(UserError, match="--camera agentview_image or wrist_image"):
        convert(ConvertConfig(source, tmp_path / "out"))
    convert(ConvertConfig(source, tmp_path / "out", camera="wrist_image"))
    assert open_dataset(tmp_path / "out").episodes == len(EPISODES)


# Command -----------------------------------------------------------------------------------------


def test_the_command_shows_and_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lerobot_2(tmp_path / "source")
    assert main([str(source)]) == 0
    shown = capsys.readouterr().out
    assert "format     lerobot" in shown and "frames     16, 4 to 7 in an episode" in shown
    assert "rate 10 a second" in shown and "dy" in shown
    assert main(["--from", "lerobot", str(source), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "proprio observation.state[0:3]" in printed and "112 x 112 pixels" in printed
    metadata = json.loads((tmp_path / "out/data/metadata.json").read_text())
    assert metadata["worldmodel"]["fps"] == 10 and metadata["worldmodel"]["fit"] == "pad"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no file or folder nowhere"),
        (["SOURCE", "--from", "rosbag"], "format is 'rosbag': there are auto, lerobot"),
        (["SOURCE", "--from", "robomimic"], "is not of the format robomimic"),
        (["SOURCE/empty"], "is of no known format"),
        (["SOURCE", "--out", "SOURCE/out", "--episodes", "9"], "episodes is 9: SOURCE has 3"),
        (["SOURCE", "--out", "SOURCE/out", "--fit", "zoom"], "fit is 'zoom': choose one of pad"),
        (["SOURCE", "--out", "SOURCE/out", "--action", "torque"], "no field 'torque'"),
    ],
)
def test_wrong_arguments_get_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(WRITERS["folders"](tmp_path / "source"))
    (tmp_path / "source" / "empty").mkdir()
    assert main([each.replace("SOURCE", source) for each in arguments]) == 2
    error = capsys.readouterr().err
    assert message.replace("SOURCE", source) in error and error.count("\n") == 1


# Images ------------------------------------------------------------------------------------------


@given(
    height=st.integers(8, 60),
    width=st.integers(8, 60),
    size=st.integers(8, 40),
    mode=st.sampled_from(list(FITS)),
)
def test_every_shape_becomes_a_square(height: int, width: int, size: int, mode: str) -> None:
    image = np.full((height, width, 3), 200, np.uint8)
    fitted = ImageFit(size, mode).image(image)
    assert fitted.shape == (size, size, 3)
    share = (fitted == 200).all(2).mean()
    if mode == "pad" and height != width:
        assert share <= min(height, width) / max(height, width) + 0.15
    else:
        assert share == 1


def test_a_video_frame_looks_like_the_same_image(tmp_path: Path) -> None:
    wide = np.repeat(np.concatenate([e.pixels for e in EPISODES]), 2, 2)  # 96 x 192
    write_video(tmp_path / "wide.mp4", wide)
    for mode in list(FITS):
        fit = ImageFit(48, mode)
        frames = list(read_video(tmp_path / "wide.mp4", fit))
        assert len(frames) == len(wide)
        for frame, image in zip(frames, wide, strict=True):
            assert np.abs(frame.astype(int) - fit.image(image)).mean() < 4


@pytest.mark.parametrize(
    "convert_image",
    [
        lambda x: x,
        lambda x: x.transpose(2, 0, 1),
        lambda x: x.astype(np.float32),
        lambda x: x / np.float32(255),
        lambda x: np.concatenate([x, x[..., :1]], 2),
    ],
    ids=["plain", "channels first", "float 255", "float 1", "alpha"],
)
def test_types_of_images(convert_image) -> None:  # type: ignore[no-untyped-def]
    image = EPISODES[0].pixels[2]
    (found,) = checked_images([convert_image(image)], "here")
    assert found.dtype == np.uint8 and (found == image).all()


def test_grey_images_and_what_is_no_image() -> None:
    grey = EPISODES[0].pixels[2][..., 0]
    (found,) = checked_images([grey], "here")
    assert (found == grey[..., None]).all() and found.shape == (96, 96, 3)
    with pytest.raises(UserError, match=r"here, step 0: an image of shape \(5, 5, 9\)"):
        list(checked_images([np.zeros((5, 5, 9))], "here"))
    with pytest.raises(UserError, match="here, step 1: pixels from 0 to 200"):
        list(checked_images([np.full((9, 9, 3), 0.5), np.full((9, 9, 3), [0.0, 1, 200])], "here"))
