"""Frames in other looks, and how training draws them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import small_run

from worldmodel.data.dataset import Dataset, open_dataset, split
from worldmodel.training.config import OptimConfig
from worldmodel.training.looks import LookedFrames
from worldmodel.training.trainer import start

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(maze: Path) -> Dataset:
    return open_dataset(maze / "maze")


def test_looks_are_of_whole_episodes_and_repeatable(dataset: Dataset) -> None:
    frames = LookedFrames(dataset, 100, np.arange(20, 60), seed=1, device=CPU)
    assert len(frames) == 105 and len(frames.episodes) == 5  # episodes of 21 frames
    assert np.isin(frames.episodes, np.arange(20, 60)).all()
    rows = np.concatenate([np.r_[frames.dataset.frames(int(e))] for e in frames.episodes])
    assert np.array_equal(frames.rows, rows)
    again = LookedFrames(dataset, 100, np.arange(20, 60), seed=1, device=CPU)
    part = slice(32, 64)
    assert frames.hash == again.hash
    assert np.array_equal(frames.pixels(part), again.pixels(part))
    other = LookedFrames(dataset, 100, np.arange(20, 60), seed=2, device=CPU)
    assert other.hash != frames.hash != dataset.hash


def test_no_more_looks_than_frames(dataset: Dataset) -> None:
    assert len(LookedFrames(dataset, 10**9, np.arange(3), seed=0, device=CPU)) == 3 * 21


def test_looks_differ_from_frame_to_frame_and_show_the_same_things(dataset: Dataset) -> None:
    frames = LookedFrames(dataset, 64, np.arange(60), seed=0, device=CPU)
    looked = frames.pixels(slice(0, 63)).astype(float)
    plain = dataset.pixels(frames.rows[:63]).astype(float)
    assert looked.shape == plain.shape
    assert np.ptp(looked.mean((1, 2, 3))) > 40  # one episode has frames of many looks
    alike = [
        np.corrcoef(a.mean(-1).ravel(), b.mean(-1).ravel())[0, 1]
        for a, b in zip(looked, plain, strict=True)
    ]
    assert np.median(np.abs(alike)) > 0.5  # colours may be inverted


def test_half_of_the_frames_of_mixed_clips_have_another_look(maze: Path) -> None:
    trainer, loop = start(small_run(maze, "looks", steps=4, joint=0.5, looks=400))
    loop.update()
    frames, rng = trainer.frames, np.random.default_rng(0)
    batch = frames.draw(64, 12, rng, before=0, mixed=0.25)
    assert batch.frames.shape == batch.shown.shape and len(batch.ids) == 64
    changed = (batch.frames != batch.shown).flatten(2).any(-1)
    assert not changed[:48].any()
    assert 0.35 < changed[48:].float().mean() < 0.65
    last = frames.looks[0][0].rows
    assert np.isin(batch.ids[48:].numpy(), last).all()
    assert torch.equal(frames.features[batch.ids], batch.frames)
    assert len(frames.features) == 120 * 21 + len(last)


def test_without_looks_clips_are_shown_as_recorded(maze: Path) -> None:
    trainer, loop = start(small_run(maze, "plain", steps=4, joint=0.5, looks=0))
    loop.update()
    batch = trainer.frames.draw(8, 12, np.random.default_rng(0), before=0, mixed=0.25)
    assert torch.equal(batch.frames, batch.shown) and not trainer.frames.looks


@pytest.mark.slow
def test_latents_learn_to_ignore_looks(maze: Path, dataset: Dataset) -> None:
    """How far another look moves latents of held-out frames, relative to their spread."""
    held = LookedFrames(dataset, 200, split(dataset, 0.2)[1], seed=9, device=CPU)
    plain, looked = dataset.pixels(held.rows), held.pixels(slice(0, len(held)))
    optim, moved = OptimConfig(lr=2e-3, warmup=10), {}
    for looks in (0, 2000):
        settings = small_run(
            maze,
            f"ignore{looks}",
            steps=600,
            joint=0.99,
            looks=looks,
            held_out=0.2,
            clips=16,
            optim=optim,
        )
        trainer, loop = start(settings)
        for _ in range(592):
            loop.update()
        with torch.no_grad():
            z, other = (
                trainer.model.encode(trainer.encoder.encode(images)) for images in (plain, looked)
            )
        moved[looks] = float((z - other).square().mean() / z.var(0).mean())
    assert moved[2000] < 0.7 * moved[0]
