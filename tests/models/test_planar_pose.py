"""The planar pose: image motions, headings, the robot's position, and learning it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from worldmodel.data.collection import CollectConfig, collect
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.planar_pose import PlanarPose, RelativePredictor, fitting
from worldmodel.models.planar_pose.geometry import rotate
from worldmodel.models.planar_pose.headings import align, find_headings, rotate_back
from worldmodel.models.planar_pose.image_motions import (
    THUMBNAIL,
    add_borders,
    move_images,
    recolour,
    split_background,
)
from worldmodel.models.planar_pose.representation import SCALE
from worldmodel.models.planar_pose.robot import fit_robot_map
from worldmodel.models.world_model import WorldModel
from worldmodel.training.config import TrainConfig
from worldmodel.training.trainer import start

SPEC = DataSpec(64, 192, (-1.0, -2.0), (1.0, 2.0), (0.0,) * 3, (1.0,) * 3)
POSE = ModelConfig(
    1, 6, "relative", width=32, depth=1, context=2, frameskip=3, representation="planar_pose"
)


def centroids_of(content: torch.Tensor) -> torch.Tensor:
    """Centres of brightness ``[B, 2]``, x and y in half images."""
    side = content.shape[-1]
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    mass = content.sum(1)
    x = (mass.sum(1) * line).sum(1) / mass.sum((1, 2))
    return torch.stack([x, (mass.sum(2) * line).sum(1) / mass.sum((1, 2))], 1)


def test_content_moves_with_the_image() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.full((200, 3, 56, 56), 0.8)
    for image in images:
        row, column = torch.randint(4, 48, (2,), generator=g).tolist()
        image[:, row : row + 4, column : column + 4] = 0.2
    content, background = split_background(images)
    torch.testing.assert_close(background, torch.full((200, 3, 1, 1), 0.8))
    before = centroids_of(content)
    changed, rotation, shift = move_images(content, g)
    torch.testing.assert_close(rotation.norm(dim=1), torch.ones(200))
    after = centroids_of(changed)
    torch.testing.assert_close(after, rotate(before, rotation) + shift, rtol=0, atol=0.02)
    # The new position does not correlate with the old one, nor with the rotation.
    expected = np.corrcoef(torch.cat([after, rotate(before, rotation)], 1).T)[:2, 2:]
    assert np.abs(expected).max() < 0.25 and after.std() > 0.3


def wedge(angle: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Small images ``[M, 3, S, S]`` of a shape without symmetry, as int8."""
    line = (torch.arange(THUMBNAIL) + 0.5) / THUMBNAIL * 2 - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    back = torch.stack([angle.cos(), -angle.sin()], 1)[:, None, None]
    x, y = rotate(grid - place[:, None, None], back).unbind(-1)
    bar = (x.abs() < 0.2) & (y.abs() < 0.05)
    hook = ((x - 0.15).abs() < 0.05) & ((y - 0.1).abs() < 0.1)
    return (100 * (bar | hook).unsqueeze(1).expand(-1, 3, -1, -1)).to(torch.int8)


def test_headings_are_found_up_to_a_constant() -> None:
    g = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(500, generator=g)
    place = torch.rand(500, 2, generator=g) - 0.5
    shown = place + 0.01 * torch.randn(500, 2, generator=g)  # positions have errors
    found, radius = find_headings(wedge(angle, place), shown)
    same = rotate(found, torch.stack([angle.cos(), -angle.sin()], 1))
    back = F.normalize(same.mean(0), dim=0) * torch.tensor([1.0, -1.0])
    wrong = torch.atan2(*rotate(same, back).flip(1).T)
    assert wrong.abs().quantile(0.95).rad2deg() < 4
    assert 0.1 < radius < 0.2


def test_alignment_inverts_rotation() -> None:
    discs = torch.fft.rfft(torch.randn(5, 7, 64, generator=torch.Generator().manual_seed(0)))
    turn = 2 * math.pi / 64 * torch.tensor([0.0, 3.0, 10.0, 31.0, 60.0])
    for k in range(5):
        again = rotate_back(discs[k : k + 1].expand(5, -1, -1), -turn)
        found, _ = align(again, discs[k])
        wrong = (found - turn + math.pi) % (2 * math.pi) - math.pi
        assert wrong.abs().max() < 0.02


def test_the_relative_predictor_is_equivariant_to_rotations() -> None:
    torch.manual_seed(0)
    model = WorldModel(POSE, SPEC).eval()
    predictor = model.predictor
    assert isinstance(predictor, RelativePredictor)
    for p in predictor.parameters():
        torch.nn.init.normal_(p, std=0.2)
    # Only the relative inputs count: weights of all others are zero.
    first = predictor.blocks[0]
    assert isinstance(first, torch.nn.Linear)
    relative = slice(12, 12 + 2 * 2 * (1 + 3))
    kept = first.weight.data[:, relative].clone()
    first.weight.data.zero_()
    first.weight.data[:, relative] = kept
    predictor.action_to_motion.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    predictor.proprio_to_position.copy_(torch.eye(3, 2))
    z, given = torch.randn(4, 2, 1, 6), torch.randn(4, 2 * (3 * 2 + 3))
    rotation = F.normalize(torch.randn(4, 2), dim=1)
    world = z.unflatten(-1, (3, 2))
    rotated_z = rotate(world, rotation[:, None, None, None]).flatten(-2)
    acts = given[:, :12].unflatten(-1, (6, 2)) @ predictor.action_to_motion
    acts = rotate(acts, rotation[:, None]) @ predictor.action_to_motion.T
    robot = given[:, 12:].unflatten(1, (2, 3)).clone()
    robot[..., :2] = rotate(robot[..., :2], rotation[:, None])
    rotated_condition = torch.cat([acts.flatten(1), robot.flatten(1)], 1)
    change, rotated_change = predictor(z, given)[0], predictor(rotated_z, rotated_condition)[0]
    object_change = rotate(change.unflatten(-1, (3, 2)), rotation[:, None, None])[:, :, :2]
    torch.testing.assert_close(rotated_change.unflatten(-1, (3, 2))[:, :, :2], object_change)
    length = z[:, -1, 0, 2:4].norm(dim=1)
    torch.testing.assert_close((z[:, -1] + change)[:, 0, 2:4].norm(dim=1), length)


def test_the_robot_is_located_by_image_changes() -> None:
    """A dot moves; in a third of the pairs, a bar moves too."""
    rng = np.random.default_rng(0)
    proprio = rng.uniform(-1, 1, (300, 2)).astype(np.float32)
    leads = np.array([[0.1, -0.5], [0.6, 0.1], [0.05, -0.1]], np.float32)
    line = (np.arange(64) + 0.5) / 32 - 1
    frames = np.full((2, 300, 64, 64, 3), 200, np.uint8)
    for k, at in enumerate(proprio @ leads[:2] + leads[2]):
        bar = rng.uniform(-0.5, 0.5, 2)
        for i, way in enumerate((-0.08, 0.08)):
            distance = np.hypot(line - at[0] - way, (line - at[1])[:, None])
            frames[i, k][distance < 0.1] = 40
            x = bar[0] + (3 * way if k % 3 == 0 else 0)
            across, down = abs(line - x) < 0.2, abs(line - bar[1]) < 0.06
            frames[i, k][down[:, None] & across] = 90
    found = fit_robot_map(frames[0], frames[1], proprio)
    np.testing.assert_allclose(found, leads, atol=0.02)


def test_recolouring_preserves_geometry() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.full((200, 3, 50, 50), 0.5)
    images[:, :, 10:20, 30:40] = 0.9
    painted = recolour(images, g)
    ground, object_colour = painted[:, :, :1, :1], painted[:, :, 10:11, 30:31]
    torch.testing.assert_close(painted, torch.where(images == 0.5, ground, object_colour))
    of_ground, of_object = (ground != 0.5).any(1).sum(), (object_colour != 0.9).any(1).sum()
    assert 40 < of_ground < 100 and 40 < of_object < 100  # 35 % each,
    assert not ((ground != 0.5).any(1) & (object_colour != 0.9).any(1)).any()  # and never both
    strips = add_borders(images, g)
    assert (strips[:, :, 2:-2, 2:-2] == images[:, :, 2:-2, 2:-2]).all()
    assert 60 < int((strips != images).flatten(1).any(1).sum()) < 140


def test_the_motion_of_actions_is_fitted() -> None:
    g = torch.Generator().manual_seed(0)
    predictor = WorldModel(POSE, SPEC).predictor
    assert isinstance(predictor, RelativePredictor)
    robot = torch.randn(4, 2, generator=g)
    leads = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    actions = torch.randn(300, 2, generator=g)
    changes = actions @ leads @ torch.linalg.pinv(robot[:3])  # of proprio
    noise = 0.01 * torch.randn(300, 3, generator=g)
    predictor.fit_maps(robot, actions, 0.3 * changes + noise)
    torch.testing.assert_close(predictor.action_to_motion, leads, rtol=0, atol=0.02)
    measured = torch.randn(5, 3)
    place = measured @ predictor.proprio_to_position + predictor.position_offset
    torch.testing.assert_close(place, SCALE * (measured @ robot[:3] + robot[3]))


def test_the_distance_of_poses_ignores_the_robot() -> None:
    model = WorldModel(POSE, SPEC)
    z = torch.randn(5, 1, 6)
    moved_robot = z + torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 2.0])
    assert not model.distance(z, moved_robot).any()
    moved_object = z + torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(model.distance(z, moved_object), torch.ones(5))


def test_bad_configurations_are_clear_errors() -> None:
    with pytest.raises(UserError, match="a planar pose is 1 latent token of dim 6, not 1 of 128"):
        ModelConfig(representation="planar_pose", predictor="mlp")
    with pytest.raises(UserError, match="needs the representation 'planar_pose', not"):
        ModelConfig(predictor="relative")
    with pytest.raises(UserError, match="square number of patches, not 60"):
        PlanarPose(POSE, replace(SPEC, num_tokens=60))
    sample = SimpleNamespace(consecutive=np.zeros(2, bool))
    logs: Any = SimpleNamespace(spaced_frames=lambda about: sample)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="collect longer"):
        patch.setattr(fitting, "robot_map", lambda logs: np.zeros((4, 2)))
        PlanarPose(POSE, SPEC).fit(logs)
    still = np.zeros((5, 32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="the robot does not move, or is out of the image"):
        fit_robot_map(still, still, np.zeros((5, 2), np.float32))


@pytest.fixture(scope="module")
def pushes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    out = folder / "pushes"
    collect(CollectConfig(env="worldmodel/PushT-v0", episodes=30, steps=40, out=out, workers=1))
    return folder


@pytest.mark.slow
def test_a_planar_pose_is_learnt_saved_and_resumed(
    pushes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few frames and steps give the block's position. A resumed run does not learn it again."""
    calls = []

    def small_batches(*args: Any) -> None:
        calls.append(1)
        learn(*args[:-1], batch=48)

    learn = fitting.learn
    monkeypatch.setattr(fitting, "learn", small_batches)
    config = TrainConfig(
        data=str(pushes / "pushes"),
        encoder="dino-112",
        out=str(pushes / "run"),
        cache=str(pushes / "latents"),
        steps=6,
        pose_steps=80,
        batch=16,
        horizon=2,
        model=replace(POSE, frameskip=5),
    )
    trainer, loop = start(config)
    assert "reconstruct" not in loop.update()
    z = trainer.frames.features[:, 0].numpy()
    state = trainer.frames.datasets[0].state
    assert state is not None
    true = np.stack([state[:, 2], -state[:, 3]], 1)
    given = np.c_[z[:, :2], np.ones(len(z))].astype(np.float64)
    miss = true - given @ np.linalg.lstsq(given, true, rcond=None)[0]
    assert (miss.var(0) < 0.05 * true.var(0)).all(), miss.var(0) / true.var(0)
    radius = trainer.averaged.representation.radius
    assert 0.05 < float(radius) < 0.36
    np.testing.assert_allclose(np.linalg.norm(z[:, 2:4], axis=1), SCALE * float(radius), rtol=0.02)
    assert trainer.averaged.predictor.action_to_motion.any()

    resumed, loop = start(replace(config, resume=True))
    loop.update()
    assert (resumed.frames.features[:, 0].numpy() == z).all() and len(calls) == 1
    model, _, info = load_checkpoint(str(pushes / "run" / "checkpoint"))
    assert info.model.representation == "planar_pose"
    tokens = torch.from_numpy(np.array(trainer.frames.tokens[0][:4])).float()
    torch.testing.assert_close(
        model.encode(tokens), trainer.averaged.encode(tokens), rtol=0, atol=0.3
    )
