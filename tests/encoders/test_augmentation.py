"""Augmentation and procedural images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodel.encoders.augmentation import Augment, AugmentConfig, dead_leaves


@pytest.fixture
def images() -> np.ndarray:
    return dead_leaves(6, 112, seed=0)


def test_augment_is_a_function_of_its_generator(images: np.ndarray) -> None:
    frames = torch.from_numpy(images)
    augment = Augment(AugmentConfig(), frames, torch.full((3,), 0.5), torch.full((3,), 0.25))
    first = augment(frames, torch.Generator().manual_seed(1))
    again = augment(frames, torch.Generator().manual_seed(1))
    other = augment(frames, torch.Generator().manual_seed(2))
    assert first.student.shape == first.teacher.shape == (6, 3, 112, 112)
    assert [x.shape for x in first.local_crops] == [(6, 3, 56, 56)] * 2
    for one, same, another in zip(first[:2], again[:2], other[:2], strict=True):
        assert torch.equal(one, same) and not torch.equal(one, another)
        assert torch.isfinite(one).all()


def test_student_and_teacher_see_the_same_crop_in_two_looks() -> None:
    """Two halves of an image: the border between them is where it is in the other view."""
    frames = torch.full((40, 112, 112, 3), 230, dtype=torch.uint8)
    frames[:, :, 50:] = 80
    config = AugmentConfig(recolour=1.0, background=0.0, noise=0.0, rotation=0.0)
    augment = Augment(config, frames, torch.full((3,), 0.5), torch.full((3,), 0.25))
    views = augment(frames, torch.Generator().manual_seed(0))
    assert (views.student - views.teacher).abs().mean() > 0.3
    places = []
    for view in views[:2]:
        jumps = view.diff(dim=-1).abs().sum((1, 2)), view.diff(dim=-2).abs().sum((1, 3))
        places.append(torch.cat(jumps, 1).argmax(1))
    assert (places[0] == places[1]).float().mean() > 0.9


def test_augment_does_not_use_the_global_generator(images: np.ndarray) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    frames = torch.from_numpy(images)
    augment = Augment(AugmentConfig(), frames, torch.full((3,), 0.5), torch.full((3,), 0.25))
    augment(frames, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_local_crops_contain_salient_regions() -> None:
    frames = torch.full((64, 112, 112, 3), 255, dtype=torch.uint8)
    frames[:, 80:100, 12:32] = 0
    plain = AugmentConfig(recolour=0.0, background=0.0, noise=0.0)
    augment = Augment(plain, frames, torch.full((3,), 0.5), torch.full((3,), 0.25))
    small = augment(frames, torch.Generator().manual_seed(0)).local_crops
    seen = [float((crop.amin((1, 2, 3)) < -1).float().mean()) for crop in small]
    assert min(seen) > 0.7  # a crop anywhere sees it in fewer than half of the images


def test_relook_keeps_edges_in_place() -> None:
    """Two halves of an image, of other colours each time: the border between them stays."""
    halves = torch.full((60, 3, 56, 56), 0.9)
    halves[..., 20:] = 0.3
    config = AugmentConfig(global_size=56, recolour=1.0, background=0.0, noise=0.0)
    textures = torch.from_numpy(dead_leaves(4, 56, 0))
    look = Augment(config, textures, torch.zeros(3), torch.ones(3))
    seen = look.relook(halves.clone(), torch.Generator().manual_seed(0))
    assert seen.shape == halves.shape and seen[:, :, 0, 0].std(0).min() > 0.1
    jumps = seen.diff(dim=-1).abs().sum((1, 2))
    assert (jumps.argmax(1) == 19).float().mean() > 0.9


def test_relook_changes_the_colours_of_ground_and_object_independently() -> None:
    images = torch.full((200, 3, 56, 56), 0.8)
    images[..., 20:32, 20:32] = 0.3
    config = AugmentConfig(global_size=56, recolour=0.0, background=0.0, noise=0.0)
    textures = torch.from_numpy(dead_leaves(4, 56, 0))
    look = Augment(config, textures, torch.zeros(3), torch.ones(3))
    seen = look.relook(images.clone(), torch.Generator().manual_seed(0))
    ground = (seen[..., 5, 5] - 0.8).abs().amax(1) > 0.25
    thing = (seen[..., 26, 26] - 0.3).abs().amax(1) > 0.25
    for one in (ground & thing, ground & ~thing, ~ground & thing, ~ground & ~thing):
        assert one.float().mean() > 0.1


def test_procedural_images_are_seeded_and_varied() -> None:
    a = dead_leaves(4, 64, seed=5)
    assert a.dtype == np.uint8 and a.shape == (4, 64, 64, 3)
    assert np.array_equal(a, dead_leaves(4, 64, seed=5))
    assert all(image.std() > 1 for image in a) and not np.array_equal(a[0], a[1])
