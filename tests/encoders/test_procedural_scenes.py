"""Procedural scenes for pretraining."""

from __future__ import annotations

import numpy as np
import pytest

from worldmodel.encoders.procedural_scenes import VIEWS, render_scenes


def test_no_images() -> None:
    assert render_scenes(0, 32, seed=0).shape == (0, 32, 32, 3)


@pytest.mark.slow
def test_images_are_varied_and_the_same_for_the_same_seed_whatever_the_workers() -> None:
    images = render_scenes(VIEWS + 4, 32, seed=3, workers=1)
    assert images.shape == (VIEWS + 4, 32, 32, 3) and images.dtype == np.uint8
    assert np.array_equal(images, render_scenes(VIEWS + 4, 32, seed=3, workers=2))
    assert not np.array_equal(images[:4], render_scenes(4, 32, seed=4, workers=1))
    flat = images.reshape(len(images), -1).astype(float)
    assert len({image.tobytes() for image in images}) == len(images)
    assert flat.std(0).mean() > 20  # between views
    assert np.median(flat.std(1)) > 15  # within a view: something is to be seen
