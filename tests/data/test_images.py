"""Images for planning: frames of videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recordings import FPS, write_video

from worldmodel.data.images import load_image, load_images, load_mask, read_pixels, split_names
from worldmodel.errors import UserError

FRAMES = 3 * FPS


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose frames are brighter by 8 each."""
    path = tmp_path_factory.mktemp("video") / "demo.mp4"
    write_video(path, np.stack([np.full((64, 96, 3), 8 * i, np.uint8) for i in range(FRAMES)]))
    return path


@pytest.mark.parametrize(
    ("when", "frame"),
    [("0s", 0), ("0", 0), ("1.5s", 15), ("1.54s", 15), ("1.56s", 16), ("2.94s", 29), ("29", 29)],
)
def test_a_frame_of_a_video_is_an_image(video: Path, when: str, frame: int) -> None:
    pixels = read_pixels(f"{video}@{when}")
    assert pixels.shape == (64, 96, 3) and pixels.dtype == np.uint8
    assert abs(pixels.mean() - 8 * frame) < 3


def test_it_is_fitted_as_images_are(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = load_image(f"{video}@20", 48, "pad")
    assert pixels.shape == (48, 48, 3) and not pixels[:7].any() and pixels[24].all()
    assert "96 x 64 pixels, padded to 48 x 48" in capsys.readouterr().err


def test_a_file_with_an_at_sign_is_that_file(video: Path) -> None:
    path = video.with_name("demo.mp4@2s")
    Image.new("RGB", (4, 4), "red").save(path, "PNG")
    assert read_pixels(path).tolist() == [[[255, 0, 0]] * 4] * 4
    path.unlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demo.mp4", "for a frame of a video write .*demo.mp4@12.5s"),
        ("demo.mp4@3s", "has no frame 3s: it ends at 2.95s"),
        ("demo.mp4@30", "has no frame 30: it ends at 2.95s"),
        ("demo.mp4@999999999s", "it ends at 2.95s"),
        ("demo.mp4@", "names no frame: write seconds"),
        ("demo.mp4@noon", "names no frame: write seconds"),
        ("demo.mp4@-1s", "names no frame: write seconds"),
        ("demo.mp4@9999999999s", "names no frame: write seconds"),
        ("broken.mp4@1s", "cannot read the video .*broken.mp4"),
        (f"{'a' * 300}@1s", "cannot|not an image"),
        ("none.mp4@1s", "no image at .*none.mp4@1s"),
    ],
)
def test_what_is_no_frame_is_named(video: Path, name: str, message: str) -> None:
    video.with_name("broken.mp4").write_bytes(video.read_bytes()[:600])
    with pytest.raises(UserError, match=message):
        read_pixels(video.with_name(name))


def test_several_images_have_commas_between_them(video: Path) -> None:
    one = video.with_name("one, two.png")
    Image.new("RGB", (8, 8), "red").save(one)
    assert split_names(one) == [str(one)]
    long = ["a" * 200] * 3  # longer than a file's name may be
    assert split_names(",".join(long)) == long
    names = f"{video}@0,{video}@29"
    assert [int(image.mean() > 100) for image in load_images(names, 64)] == [0, 1]
    with pytest.raises(UserError, match="has an empty name"):
        split_names("a.png,")


def test_what_is_white_counts(tmp_path: Path) -> None:
    painted = np.zeros((32, 64), np.uint8)
    painted[:, 32:] = 255
    Image.fromarray(painted).save(tmp_path / "mask.png")
    mask = load_mask(tmp_path / "mask.png", 16)
    assert mask.shape == (16, 16) and mask[:, 9:].all() and not mask[:, :7].any()
    Image.fromarray(0 * painted).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="mask.png is black everywhere: paint white what counts"):
        load_mask(tmp_path / "mask.png", 16)
