"""The pose of what the robot moves, learnt from logged frames without labels.

Two things are known of every frame although nobody has said them. Turn and shift an image, and what
it shows turns and shifts along (equivariance: Lenc and Vedaldi 2015). And things stay where they
are unless something moves them, while the robot moves all the time (slowness: Wiskott and Sejnowski
2002). So the **place** of the thing is a point of the image that goes along with every motion of
the image, and otherwise moves as little as possible. The **robot** is where most of what changes
between two frames is: proprio tells that place, linearly.

Once the place is known, the discs around it are turned until they look like their mean, as in
single-particle microscopy (Penczek et al. 1992): that is how the thing is **turned**, up to one
angle which is the same for all frames. Images are recoloured and retextured besides, so that the
pose depends less on the look of the world.

This suits one rigid thing on a plane, and a camera that looks straight at it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.cli import Progress, progress
from worldmodel.encoders.augmentation import Augment, AugmentConfig, dead_leaves
from worldmodel.encoders.encoder import Encoder
from worldmodel.errors import UserError
from worldmodel.models.world_model import Pose, turned

Array = NDArray[Any]

SMALL = 64  # pixels: side of the images in which discs are compared
REACH = 0.36  # radius of a disc, in half images
RINGS, SPOKES = 12, 64  # how finely a disc is looked at


def learn_pose(
    pose: Pose,
    encoder: Encoder,
    pixels: Callable[[slice], Array],
    tokens: Array,
    robot: Array,
    follows: Array,
    seed: int = 0,
    steps: int = 4000,
    batch: int = 128,
) -> None:
    """Train `pose` on logged frames.

    Args:
        pose: changed in place.
        encoder: the frozen encoder, for changed images.
        pixels: reads frames, uint8 ``[m, H, W, 3]``, of a slice of the M.
        tokens: of the same frames, ``[M, N, C]``.
        robot: where the robot is in them, ``[M, 2]``, in half images: see `robot_in_images`.
        follows: whether the next frame is of the same episode, bool ``[M - 1]``.
        steps: of training; the first quarter finds the place.

    Raises:
        UserError: no frame follows another.
    """
    first = np.flatnonzero(follows)
    if not len(first):
        raise UserError("no frame follows another, so nothing can be told of what moves: log more")
    views, turns, shifts, small = moved_views(encoder, pixels, tokens.shape, seed)
    device = pose.radius.device
    learning = copy.deepcopy(pose).requires_grad_(True)
    parameters = list(learning.parameters())
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            [p for p in parameters if p.ndim == 2],
            weight_decay=1e-3,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW([p for p in parameters if p.ndim != 2], weight_decay=1e-3),
    ]
    angles: Tensor | None = None
    rng = np.random.default_rng(seed)
    bar: Progress[Any] = progress(total=steps, description=f"pose in {len(tokens)} frames")
    with bar:
        for step in range(steps):
            if angles is None and step >= steps // 4:
                places = seen_places(pose, tokens)
                angles, radius = found_angles(small, places, seed)
                for each in (pose, learning):
                    each.radius.fill_(radius)
            now = rng.choice(first, batch)
            given = np.concatenate([tokens[now], tokens[now + 1], views[now]])
            with torch.autocast(device.type, torch.bfloat16):
                seen = learning.see(torch.from_numpy(given).to(device).bfloat16())
            now_seen, next_seen, view_seen = zip(*(part.chunk(3) for part in seen), strict=True)
            place, turn, robot_seen, looked = now_seen
            place_v, turn_v, robot_v, looked_v = view_seen
            spun, shift = turns[now].to(device), shifts[now].to(device)
            here = torch.from_numpy(robot[now]).to(device)
            there = turned(here, spun) + shift
            loss = (
                apart(place_v, turned(place, spun) + shift)
                + apart(next_seen[0], place)
                + apart(robot_seen, here)
                + apart(robot_v, there)
            )
            # The robot may be a mere dot: told which patch it is in, it is found far sooner.
            for looks, at in ((looked, here), (looked_v, there)):
                loss = loss + 0.1 * F.nll_loss(looks, torch.cdist(at, pose.places).argmin(1))
            if angles is not None:
                angle = angles[now].to(device)
                loss = loss + 0.5 * (apart(turn, angle) + apart(turn_v, turned(angle, spun)))
            done = step / steps
            rate = 2e-3 * min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * done)) / 2
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                decay = min(0.99, (1 + step) / (10 + step))
                torch._foreach_lerp_(
                    list(pose.parameters()), list(learning.parameters()), 1 - decay
                )
            bar.update(1, loss=float(loss.detach()))


def apart(one: Tensor, other: Tensor, blunt: float = 0.005) -> Tensor:
    """Mean distance of points ``[B, 2]``, smooth where it is small. Not squared, so that one thing
    that moves far costs no more than many that move a little."""
    return ((one - other).square().sum(-1) + blunt**2).sqrt().mean()


def robot_in_images(before: Array, after: Array, proprio: Array) -> Array:
    """Where the robot is in the image, as proprio tells it.

    What changes between two frames is mostly the robot. So the centre of the changes is fitted
    linearly to proprio, and pairs in which something else moves, too, count little (least absolute
    deviations, by reweighting).

    Args:
        before, after: frames and the ones that follow them, uint8 ``[M, H, W, 3]``.
        proprio: between the two, normalised, ``[M, Dp]``.

    Returns:
        ``[Dp + 1, 2]``: the last row is the place, in half images, where proprio is 0.

    Raises:
        UserError: nothing changes.
    """
    change = np.abs(before.astype(np.int16) - after).max(-1).astype(np.float32)
    change[change < 26] = 0.0  # a tenth of full scale: not noise
    mass = change.sum((1, 2))
    changed = mass > 0
    if not changed.any():
        raise UserError("no frame differs from the next: the robot does not move, or is not seen")
    side = change.shape[1]
    line = (np.arange(side) + 0.5) / side * 2 - 1
    centres = np.stack([change.sum(1) @ line, change.sum(2) @ line], 1)[changed]
    centres /= mass[changed, None]
    given = np.c_[proprio, np.ones(len(proprio))][changed].astype(np.float64)
    weight = np.ones((len(given), 1))
    for _ in range(30):
        root = np.sqrt(weight)
        found: Array = np.linalg.lstsq(root * given, root * centres, rcond=None)[0]
        weight = 1 / (np.linalg.norm(given @ found - centres, axis=1, keepdims=True) + 0.003)
    return found.astype(np.float32)


# ------------------------------------------------------------------------------- moved images
def moved_views(
    encoder: Encoder, pixels: Callable[[slice], Array], shape: tuple[int, ...], seed: int
) -> tuple[Array, Tensor, Tensor, Tensor]:
    """Every frame once more: turned, shifted, and in most of them the look of the world changed.

    Returns:
        Tokens of the views, float16 ``[M, N, C]``; unit vectors that say how they are turned
        ``[M, 2]``; how they are shifted ``[M, 2]``, in half images; and the frames themselves,
        without their background, small, ``[M, 3, SMALL, SMALL]`` int8.
    """
    count = shape[0]
    views = np.empty(shape, np.float16)
    turns, shifts = torch.empty(count, 2), torch.empty(count, 2)
    small = torch.empty(count, 3, SMALL, SMALL, dtype=torch.int8)
    generator = torch.Generator().manual_seed(seed)
    side = pixels(slice(0, 1)).shape[1]
    textures = torch.from_numpy(dead_leaves(256, side, seed))
    config = AugmentConfig(global_size=side, recolour=0.5, background=0.3)
    look = Augment(config, textures, torch.zeros(3), torch.ones(3))
    starts = range(0, count, 256)
    for at in progress(starts, len(starts), "moved images"):
        part = slice(at, min(at + 256, count))
        images = torch.from_numpy(pixels(part)).permute(0, 3, 1, 2).float() / 255
        content, background = without_background(images)
        small[part] = (127 * F.adaptive_avg_pool2d(content, SMALL)).to(torch.int8)
        content, turns[part], shifts[part] = moved(content, generator)
        images = content + background
        changed = framed(look.relook(repainted(images, generator), generator), generator)
        plain = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.3
        images = torch.where(plain, images, changed).clamp(0, 1)
        again = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1)
        views[part] = encoder.encode(again).cpu().half().numpy()
    return views, turns, shifts, small


def repainted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images ``[B, 3, H, W]`` in which, for seven of ten, one colour has become any other one: that
    of the ground, or that of a random pixel which differs from it."""
    count = len(images)
    _, ground = without_background(images)
    ground, colours = ground.flatten(2), images.flatten(2)
    differs = ((colours - ground).abs().amax(1) > 0.1).float() + 1e-6
    pick = torch.multinomial(differs, 1, generator=generator)[:, None].expand(-1, 3, -1)
    thing = colours.gather(2, pick)
    of_ground = torch.rand(count, 1, 1, generator=generator) < 0.5
    old, kept = torch.where(of_ground, ground, thing), torch.where(of_ground, thing, ground)
    # Pixels at an edge are a mixture of two colours, and remain one.
    far = (kept - old).norm(dim=1, keepdim=True).clamp_min(0.05)
    share = (1 - (colours - old).norm(dim=1, keepdim=True) / far).clamp_min(0)
    new = torch.rand(count, 3, 1, generator=generator)
    painted = torch.lerp(colours, new.expand_as(colours), share).view_as(images)
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < 0.7
    return torch.where(chosen, painted, images)


def framed(images: Tensor, generator: torch.Generator, widest: float = 0.04) -> Tensor:
    """Images ``[B, 3, H, W]``, half of them with strips of any colour along one side or two, as
    where a camera looks past the edge of the world."""
    count, side = len(images), images.shape[-1]
    line = torch.arange(side)
    width = widest * side * torch.rand(count, 2, 1, generator=generator)
    line = torch.where(torch.rand(count, 2, 1, generator=generator) < 0.5, line, line.flip(0))
    across, down = (line < width).unbind(1)
    strips = across[:, None] | down[:, :, None]
    strips &= torch.rand(count, 1, 1, generator=generator) < 0.5
    colour = torch.rand(count, 3, 1, 1, generator=generator)
    return torch.where(strips[:, None], colour, images)


def without_background(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images ``[B, 3, H, W]`` as what differs from their median colour, and that colour."""
    background = images[:, :, 3::7, 3::7].flatten(2).median(2).values[:, :, None, None]
    return images - background, background


def moved(content: Tensor, generator: torch.Generator, tries: int = 8) -> tuple[Tensor, ...]:
    """Images without background ``[B, 3, H, W]``, turned by any angle and shifted so that the
    middle of what they show is anywhere: of some random motions the one that keeps most in view.

    Where the middle ends up is drawn whatever the turn and wherever it was. Otherwise, what ends up
    on the left, say, would more often be what was there, and a direction from the middle of the
    image would seem to turn along, too.

    Returns:
        The images, how they are turned ``[B, 2]`` (a unit vector), and shifted ``[B, 2]``.
    """
    count, side = len(content), 28
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    where = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).flatten(0, 1)  # x, y
    strong = F.adaptive_avg_pool2d(content.abs().amax(1, keepdim=True), side).flatten(1)
    strong = (strong > 0.08).float()
    middle = strong @ where / strong.sum(1, keepdim=True).clamp_min(1)
    angle = 2 * math.pi * torch.rand(count, tries, generator=generator)
    spun = torch.stack([angle.cos(), angle.sin()], -1)
    target = 1.5 * torch.rand(count, tries, 2, generator=generator) - 0.75
    shift = target - turned(middle[:, None], spun)
    ends = turned(where, spun.unsqueeze(2)) + shift.unsqueeze(2)  # [B, tries, side^2, 2]
    lost = ((ends.abs().amax(-1) > 0.97) * strong[:, None]).sum(-1)
    best = torch.arange(count), lost.argmin(1)
    spun, shift = spun[best], shift[best]
    # The image at a point is what was at the point that came to lie there.
    back = spun * torch.tensor([1.0, -1.0])
    (cos, sin), origin = back.T, -turned(shift, back)
    motion = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    grid = F.affine_grid(
        torch.cat([motion, origin.unsqueeze(2)], 2), list(content.shape), align_corners=False
    )
    return F.grid_sample(content, grid, align_corners=False), spun, shift


# ------------------------------------------------------------------------------------- angles
@torch.no_grad()
def seen_places(pose: Pose, tokens: Array) -> Tensor:
    """Places ``[M, 2]`` of the thing in frames of which the tokens ``[M, N, C]`` are known."""
    device = pose.radius.device
    parts = []
    with torch.autocast(device.type, torch.bfloat16):
        for at in range(0, len(tokens), 2048):
            part = torch.from_numpy(tokens[at : at + 2048]).to(device).bfloat16()
            parts.append(pose.see(part)[0].cpu())
    return torch.cat(parts)


def found_angles(small: Tensor, places: Tensor, seed: int = 0) -> tuple[Tensor, float]:
    """How the thing is turned in small images without background ``[M, 3, S, S]``.

    Returns:
        Unit vectors ``[M, 2]``, and the thing's radius of gyration in half images: how far, in the
        root mean square, its parts are from its place.
    """
    radii = (torch.arange(RINGS) + 0.5) / RINGS * REACH
    angle = 2 * math.pi * torch.arange(SPOKES) / SPOKES
    rays = radii[:, None, None] * torch.stack([angle.cos(), angle.sin()], -1)
    # Rings count by their area; over a ring, turning is a shift, which Fourier transforms find.
    spectra = []
    for images, centres in zip(small.split(1024), places.split(1024), strict=True):
        grid = centres[:, None, None] + rays
        discs = F.grid_sample(images.float() / 127, grid, align_corners=False)
        spectra.append(torch.fft.rfft(discs * radii.sqrt()[:, None]))
    discs = torch.cat(spectra).flatten(1, 2)  # [M, 3 * RINGS, SPOKES / 2 + 1]
    some = discs[:: math.ceil(len(discs) / 10_000)]
    best, mean = -math.inf, some[0]
    for start in np.random.default_rng(seed).choice(len(some), min(4, len(some)), replace=False):
        template = some[int(start)]
        for _ in range(6):
            turn, alike = aligned(some, template)
            template = turned_back(some, turn).mean(0)
        if float(alike.mean()) > best:
            best, mean = float(alike.mean()), template
    turn = torch.cat([aligned(part, mean)[0] for part in discs.split(4096)])
    shown = torch.fft.irfft(mean, SPOKES).unflatten(0, (3, RINGS)).abs().amax(0).mean(1)
    mass = shown * radii.sqrt()  # of a ring: its brightness, which sqrt(radius) weights already
    radius = ((mass * radii.square()).sum() / mass.sum()).sqrt()
    return torch.stack([turn.cos(), turn.sin()], -1), float(radius)


def aligned(discs: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
    """Angles ``[M]`` by which `template` has to be turned to be most like each of the `discs`
    (spectra along the spokes), and how alike they are then."""
    alike = torch.fft.irfft((discs * template.conj()).sum(1), SPOKES)  # [M, SPOKES]
    best, at = alike.max(1)
    rows = torch.arange(len(alike))
    before, after = alike[rows, at - 1], alike[rows, (at + 1) % SPOKES]
    between = (before - after) / (2 * (before - 2 * best + after)).clamp(max=-1e-9)  # a parabola
    return (at + between) * 2 * math.pi / SPOKES, best


def turned_back(discs: Tensor, angle: Tensor) -> Tensor:
    """The `discs`, turned by minus `angle` ``[M]``."""
    waves = torch.arange(discs.shape[-1])
    return discs * torch.exp(1j * angle[:, None] * waves).unsqueeze(1)
