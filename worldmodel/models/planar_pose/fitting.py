"""Self-supervised learning of the planar pose, from logged frames without labels.

**Position of the object.** Two constraints define it. Equivariance (Lenc and Vedaldi 2015): when an
image is rotated and shifted, the position rotates and shifts with it. Slowness (Wiskott and
Sejnowski 2002): from one frame to the next, the position changes as little as possible. Slowness
selects the object rather than the robot, because the object rests unless it is pushed.

**Position of the robot.** A linear map of proprioception gives it (see `robot`).

**Heading of the object.** Once positions are known, angular alignment finds headings: discs around
the object are rotated until they match their mean, as in single-particle microscopy (see
`headings`). This fixes headings up to one constant angle. The same images give the object's radius
of gyration, which scales headings to distances.

Colours and textures of the rotated images are randomised, so that the pose depends less on
appearance.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.cli import Progress, progress
from worldmodel.cli.device import autocast, has_bfloat16
from worldmodel.errors import UserError
from worldmodel.models.planar_pose.geometry import rotate
from worldmodel.models.planar_pose.headings import find_headings
from worldmodel.models.planar_pose.image_motions import MovedFrames, move_frames
from worldmodel.models.planar_pose.robot import robot_map

if TYPE_CHECKING:
    from worldmodel.data.logs import Logs
    from worldmodel.models.planar_pose.representation import PlanarPose

Array = NDArray[Any]

FRAMES = 110_000  # that the pose is learnt from
BATCH = 128
LEARNING_RATE = 2e-3
POSITION_SHARE = 0.25  # of the steps, before headings are found
HEADING_WEIGHT = 0.5
PATCH_WEIGHT = 0.1


@dataclass(frozen=True)
class Frames:
    """What the pose is learnt from.

    Attributes:
        tokens: of the frames ``[M, N, C]``.
        moved: the same frames, rotated and shifted.
        robot: position of the robot in the frames ``[M, 2]``, half images.
        first: indices of the frames whose next one is of the same episode.
    """

    tokens: Array
    moved: MovedFrames
    robot: Array
    first: Array


def fit_planar_pose(pose: PlanarPose, logs: Logs, batch: int = BATCH) -> None:
    """Learn `pose`, in place, from the frames of `logs`, in `logs.steps` steps.

    Raises:
        UserError: no frame follows another, or the robot does not move.
    """
    robot = robot_map(logs)
    sample = logs.spaced_frames(FRAMES)
    first = np.flatnonzero(sample.consecutive)
    if not len(first):
        raise UserError(
            "no frame follows another, so a planar pose cannot be learnt: collect longer episodes"
        )
    tokens = sample.tokens()
    moved = move_frames(logs.encoder, sample.pixels, tokens.shape, logs.seed)
    positions = sample.proprio() @ robot[:-1] + robot[-1]
    learn(pose, Frames(tokens, moved, positions, first), logs.seed, logs.steps, batch)


def learn(pose: PlanarPose, frames: Frames, seed: int, steps: int, batch: int) -> None:
    """Train `pose`: first positions, then headings too. Its weights are a running average of those
    that the optimisers change."""
    device = pose.radius.device
    student = copy.deepcopy(pose).requires_grad_(True)
    parameters = list(student.parameters())
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            [p for p in parameters if p.ndim == 2],
            weight_decay=1e-3,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW([p for p in parameters if p.ndim != 2], weight_decay=1e-3),
    ]
    headings: Tensor | None = None
    rng = np.random.default_rng(seed)
    bar: Progress[Any] = progress(total=steps, description=f"pose in {len(frames.tokens)} frames")
    with bar:
        for step in range(steps):
            if headings is None and step >= POSITION_SHARE * steps:
                headings, radius = find_headings(
                    frames.moved.thumbnails, positions_of(pose, frames.tokens), seed
                )
                for model in (pose, student):
                    model.radius.fill_(radius)
            chosen = rng.choice(frames.first, batch)
            loss = loss_of(student, frames, chosen, headings, device)
            rate = LEARNING_RATE * min(1.0, (step + 1) / 100)
            rate *= (1 + math.cos(math.pi * step / steps)) / 2
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                decay = min(0.99, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(pose.parameters()), list(student.parameters()), 1 - decay)
            bar.update(1, loss=float(loss.detach()))


def loss_of(
    student: PlanarPose,
    frames: Frames,
    chosen: Array,
    headings: Tensor | None,
    device: torch.device,
) -> Tensor:
    """The loss on the `chosen` frames ``[B]``, their successors and their moved views."""
    tokens = np.concatenate(
        [frames.tokens[chosen], frames.tokens[chosen + 1], frames.moved.tokens[chosen]]
    )
    with autocast(device):
        poses = student.pose(to_device(tokens, device))
    parts = zip(*(part.chunk(3) for part in poses), strict=True)
    now, after, moved = (type(poses)(*part) for part in parts)
    rotation = frames.moved.rotations[chosen].to(device)
    shift = frames.moved.shifts[chosen].to(device)
    robot = torch.from_numpy(frames.robot[chosen]).to(device)
    moved_robot = rotate(robot, rotation) + shift
    loss = (
        mean_distance(moved.position, rotate(now.position, rotation) + shift)  # equivariance
        + mean_distance(after.position, now.position)  # slowness
        + mean_distance(now.robot, robot)
        + mean_distance(moved.robot, moved_robot)
    )
    # The robot may be a few pixels wide: its patch as a class label speeds up learning.
    for view, position in ((now, robot), (moved, moved_robot)):
        label = torch.cdist(position, student.centres).argmin(1)
        loss = loss + PATCH_WEIGHT * F.nll_loss(view.robot_patch, label)
    if headings is not None:
        heading = headings[chosen].to(device)
        loss = loss + HEADING_WEIGHT * (
            mean_distance(now.heading, heading)
            + mean_distance(moved.heading, rotate(heading, rotation))
        )
    return loss


def to_device(tokens: Array, device: torch.device) -> Tensor:
    """Tokens in the precision that the device computes in."""
    return torch.from_numpy(tokens).to(
        device, torch.bfloat16 if has_bfloat16(device) else torch.float32
    )


def mean_distance(one: Tensor, other: Tensor, smoothing: float = 0.005) -> Tensor:
    """Mean distance of points ``[B, 2]``, smooth at 0. It is not squared, so that one point that
    moves far costs no more than many that move a little."""
    return ((one - other).square().sum(-1) + smoothing**2).sqrt().mean()


@torch.no_grad()
def positions_of(pose: PlanarPose, tokens: Array) -> Tensor:
    """Positions of the object ``[M, 2]`` in frames, from their tokens ``[M, N, C]``."""
    device = pose.radius.device
    parts = []
    with autocast(device):
        for at in range(0, len(tokens), 2048):
            part = to_device(tokens[at : at + 2048], device)
            parts.append(pose.pose(part).position.cpu())
    return torch.cat(parts)
