"""The pose of what is moved: images that are moved on purpose, angles that are known, and a robot
that pushes a block about."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from worldmodel.data.collection import CollectConfig, collect
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.pose_training import (
    SMALL,
    aligned,
    found_angles,
    framed,
    learn_pose,
    moved,
    repainted,
    robot_in_images,
    turned_back,
    without_background,
)
from worldmodel.models.world_model import DataSpec, ModelConfig, Pose, Relative, WorldModel, turned
from worldmodel.training.trainer import TrainConfig, Trainer

SPEC = DataSpec(64, 192, (-1.0, -2.0), (1.0, 2.0), (0.0,) * 3, (1.0,) * 3)
POSE = ModelConfig(1, 6, "relative", width=32, depth=1, context=2, frameskip=3, projector="pose")


def places_of(content: torch.Tensor) -> torch.Tensor:
    """Centres of brightness ``[B, 2]``, x and y in half images."""
    side = content.shape[-1]
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    mass = content.sum(1)
    x = (mass.sum(1) * line).sum(1) / mass.sum((1, 2))
    return torch.stack([x, (mass.sum(2) * line).sum(1) / mass.sum((1, 2))], 1)


def test_what_is_shown_goes_along_with_the_image() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.full((200, 3, 56, 56), 0.8)
    for image in images:
        row, column = torch.randint(4, 48, (2,), generator=g).tolist()
        image[:, row : row + 4, column : column + 4] = 0.2
    content, background = without_background(images)
    torch.testing.assert_close(background, torch.full((200, 3, 1, 1), 0.8))
    before = places_of(content)
    changed, spun, shift = moved(content, g)
    torch.testing.assert_close(spun.norm(dim=1), torch.ones(200))
    after = places_of(changed)
    torch.testing.assert_close(after, turned(before, spun) + shift, rtol=0, atol=0.02)
    # Where a thing ends up says nothing of where it was nor of how the image was turned.
    expected = np.corrcoef(torch.cat([after, turned(before, spun)], 1).T)[:2, 2:]
    assert np.abs(expected).max() < 0.25 and after.std() > 0.3


def wedge(angle: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Small images ``[M, 3, S, S]`` of a shape without symmetry, as int8."""
    line = (torch.arange(SMALL) + 0.5) / SMALL * 2 - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    back = torch.stack([angle.cos(), -angle.sin()], 1)[:, None, None]
    x, y = turned(grid - place[:, None, None], back).unbind(-1)
    bar = (x.abs() < 0.2) & (y.abs() < 0.05)
    hook = ((x - 0.15).abs() < 0.05) & ((y - 0.1).abs() < 0.1)
    return (100 * (bar | hook).unsqueeze(1).expand(-1, 3, -1, -1)).to(torch.int8)


def test_angles_are_found_up_to_one_that_is_the_same_for_all() -> None:
    g = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(500, generator=g)
    place = torch.rand(500, 2, generator=g) - 0.5
    shown = place + 0.01 * torch.randn(500, 2, generator=g)  # places are known about
    found, radius = found_angles(wedge(angle, place), shown)
    same = turned(found, torch.stack([angle.cos(), -angle.sin()], 1))
    back = F.normalize(same.mean(0), dim=0) * torch.tensor([1.0, -1.0])
    wrong = torch.atan2(*turned(same, back).flip(1).T)
    assert wrong.abs().quantile(0.95).rad2deg() < 4
    assert 0.1 < radius < 0.2


def test_aligning_undoes_turning() -> None:
    discs = torch.fft.rfft(torch.randn(5, 7, 64, generator=torch.Generator().manual_seed(0)))
    turn = 2 * math.pi / 64 * torch.tensor([0.0, 3.0, 10.0, 31.0, 60.0])
    for k in range(5):
        again = turned_back(discs[k : k + 1].expand(5, -1, -1), -turn)
        found, _ = aligned(again, discs[k])
        wrong = (found - turn + math.pi) % (2 * math.pi) - math.pi
        assert wrong.abs().max() < 0.02


def test_relative_predicts_the_same_whichever_way_the_world_is_turned() -> None:
    torch.manual_seed(0)
    model = WorldModel(POSE, SPEC).eval()
    predictor = model.predictor
    assert isinstance(predictor, Relative)
    for p in predictor.parameters():
        torch.nn.init.normal_(p, std=0.2)
    # Deaf to what is not relative: poses, actions and proprio as they are.
    first = predictor.blocks[0]
    assert isinstance(first, torch.nn.Linear)
    relative = slice(12, 12 + 2 * 2 * (1 + 3))
    kept = first.weight.data[:, relative].clone()
    first.weight.data.zero_()
    first.weight.data[:, relative] = kept
    predictor.steering.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    predictor.robot.copy_(torch.eye(3, 2))
    z, given = torch.randn(4, 2, 1, 6), torch.randn(4, 2 * (3 * 2 + 3))
    spun = F.normalize(torch.randn(4, 2), dim=1)
    world = z.unflatten(-1, (3, 2))
    turned_z = turned(world, spun[:, None, None, None]).flatten(-2)
    acts = given[:, :12].unflatten(-1, (6, 2)) @ predictor.steering
    acts = turned(acts, spun[:, None]) @ predictor.steering.T
    robot = given[:, 12:].unflatten(1, (2, 3)).clone()
    robot[..., :2] = turned(robot[..., :2], spun[:, None])
    turned_given = torch.cat([acts.flatten(1), robot.flatten(1)], 1)
    change, turned_change = predictor(z, given)[0], predictor(turned_z, turned_given)[0]
    thing = turned(change.unflatten(-1, (3, 2)), spun[:, None, None])[:, :, :2]
    torch.testing.assert_close(turned_change.unflatten(-1, (3, 2))[:, :, :2], thing)
    length = z[:, -1, 0, 2:4].norm(dim=1)
    torch.testing.assert_close((z[:, -1] + change)[:, 0, 2:4].norm(dim=1), length)


def test_the_robot_is_found_by_what_changes() -> None:
    """A dot that moves, and a bar that moves along with it in a third of the pairs."""
    rng = np.random.default_rng(0)
    proprio = rng.uniform(-1, 1, (300, 2)).astype(np.float32)
    leads = np.array([[0.1, -0.5], [0.6, 0.1], [0.05, -0.1]], np.float32)
    line = (np.arange(64) + 0.5) / 32 - 1
    frames = np.full((2, 300, 64, 64, 3), 200, np.uint8)
    for k, at in enumerate(proprio @ leads[:2] + leads[2]):
        bar = rng.uniform(-0.5, 0.5, 2)
        for i, way in enumerate((-0.08, 0.08)):
            apart = np.hypot(line - at[0] - way, (line - at[1])[:, None])
            frames[i, k][apart < 0.1] = 40
            x = bar[0] + (3 * way if k % 3 == 0 else 0)
            across, down = abs(line - x) < 0.2, abs(line - bar[1]) < 0.06
            frames[i, k][down[:, None] & across] = 90
    found = robot_in_images(frames[0], frames[1], proprio)
    np.testing.assert_allclose(found, leads, atol=0.02)


def test_another_look_leaves_everything_in_its_place_but_at_the_edge() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.full((200, 3, 50, 50), 0.5)
    images[:, :, 10:20, 30:40] = 0.9
    painted = repainted(images, g)
    ground, thing = painted[:, :, :1, :1], painted[:, :, 10:11, 30:31]
    torch.testing.assert_close(painted, torch.where(images == 0.5, ground, thing))
    of_ground, of_thing = (ground != 0.5).any(1).sum(), (thing != 0.9).any(1).sum()
    assert 40 < of_ground < 100 and 40 < of_thing < 100  # 35 % each,
    assert not ((ground != 0.5).any(1) & (thing != 0.9).any(1)).any()  # and never both
    strips = framed(images, g)
    assert (strips[:, :, 2:-2, 2:-2] == images[:, :, 2:-2, 2:-2]).all()
    assert 60 < int((strips != images).flatten(1).any(1).sum()) < 140


def test_it_is_learnt_where_actions_lead() -> None:
    g = torch.Generator().manual_seed(0)
    predictor = WorldModel(POSE, SPEC).predictor
    assert isinstance(predictor, Relative)
    told = torch.randn(4, 2, generator=g)
    leads = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    actions = torch.randn(300, 2, generator=g)
    changes = actions @ leads @ torch.linalg.pinv(told[:3])  # of proprio
    noise = 0.01 * torch.randn(300, 3, generator=g)
    predictor.orient(told, actions, 0.3 * changes + noise)
    torch.testing.assert_close(predictor.steering, leads, rtol=0, atol=0.02)
    measured = torch.randn(5, 3)
    place = measured @ predictor.robot + predictor.middle
    torch.testing.assert_close(place, Pose.SPREAD * (measured @ told[:3] + told[3]))


def test_in_a_pose_the_place_of_the_robot_costs_nothing() -> None:
    model = WorldModel(POSE, SPEC)
    z = torch.randn(5, 1, 6)
    moved_robot = z + torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 2.0])
    assert not model.distance(z, moved_robot).any()
    moved_thing = z + torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(model.distance(z, moved_thing), torch.ones(5))


def test_bad_configurations_are_clear_errors() -> None:
    with pytest.raises(UserError, match="a pose is 1 latent token of dim 6, not 4 of 32"):
        ModelConfig(projector="pose")
    with pytest.raises(UserError, match="'relative' needs the projector 'pose', not 'mlp'"):
        ModelConfig(predictor="relative")
    with pytest.raises(UserError, match="square of patches: there are 60"):
        Pose(replace(SPEC, num_tokens=60))
    frames = np.zeros((3, 64, 192), np.float16)
    alone = np.zeros(2, bool)
    with pytest.raises(UserError, match="no frame follows another"):
        learn_pose(Pose(SPEC), None, None, frames, np.zeros((3, 2), np.float32), alone)  # type: ignore[arg-type]
    still = np.zeros((5, 32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="the robot does not move, or is not seen"):
        robot_in_images(still, still, np.zeros((5, 2), np.float32))


@pytest.fixture(scope="module")
def pushes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    out = folder / "pushes"
    collect(CollectConfig(env="worldmodel/PushT-v0", episodes=60, steps=40, out=out, workers=1))
    return folder


@pytest.mark.slow
def test_a_pose_is_learnt_kept_and_resumed(pushes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From few frames, in few steps: where the block is. Nothing is learnt twice."""
    calls = []

    def small_batches(*args: object) -> None:
        calls.append(1)
        learn_pose(*args, batch=64)  # type: ignore[arg-type]

    monkeypatch.setattr("worldmodel.training.trainer.learn_pose", small_batches)
    config = TrainConfig(
        data=str(pushes / "pushes"),
        encoder="dino-112",
        out=str(pushes / "run"),
        cache=str(pushes / "latents"),
        steps=6,
        pose_steps=150,
        batch=16,
        horizon=2,
        model=replace(POSE, frameskip=5),
    )
    trainer = Trainer(config)
    assert "reconstruct" not in trainer.train_step()
    z = trainer.features[0][:, 0]
    state = trainer.datasets[0].state
    assert state is not None
    true = np.stack([state[:, 2], -state[:, 3]], 1)
    given = np.c_[z[:, :2], np.ones(len(z))].astype(np.float64)
    miss = true - given @ np.linalg.lstsq(given, true, rcond=None)[0]
    assert (miss.var(0) < 0.05 * true.var(0)).all(), miss.var(0) / true.var(0)
    radius = trainer.average.projector.radius
    assert 0.05 < float(radius) < 0.36
    np.testing.assert_allclose(
        np.linalg.norm(z[:, 2:4], axis=1), Pose.SPREAD * float(radius), rtol=0.02
    )
    assert trainer.average.predictor.steering.any()

    resumed = Trainer(replace(config, resume=True))
    resumed.resume()
    resumed.train_step()
    assert (resumed.features[0][:, 0] == z).all() and len(calls) == 1
    model, _, info = load_checkpoint(str(pushes / "run" / "checkpoint"))
    assert info.model.projector == "pose"
    tokens = torch.from_numpy(np.array(trainer.tokens[0][:4])).float()
    torch.testing.assert_close(
        model.project(tokens), trainer.average.project(tokens), rtol=0, atol=0.3
    )
