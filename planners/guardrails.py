"""Guardrails on predicted trajectories: regions of the plane, and limits on numbers.

A `Limit` is a `planners.Guardrail`: a number for each predicted step, and the largest that is safe.
`no_go`, `stay_inside`, `keep_apart`, `at_most` and others make one. The caller provides functions
that read positions in metres from a trajectory; nothing here depends on a network.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .problem import Trajectory

Read = Callable[[Trajectory], Tensor]  #: of a trajectory, numbers [E, S, T, n]


# ------------------------------------------------------------------------------------- regions
class Region(Protocol):
    """A part of the plane."""

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance of points ``[..., 2]`` from its border, ``[...]``: negative inside."""
        ...


@dataclass(frozen=True)
class Box:
    """An upright rectangle: ``x`` and ``y`` from the first to the second number, metres. An
    infinite end leaves it open.

    Raises ValueError where that is not a rectangle.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    def __post_init__(self) -> None:
        for name, (low, high) in (("x", self.x), ("y", self.y)):
            if not low < high:  # also where one is not a number
                raise ValueError(f"a box needs {name} from low to high, got {low:g} to {high:g}")

    def distance(self, points: Tensor) -> Tensor:
        """See `Region.distance`."""
        low, high = _constant((self.x, self.y), points.dtype, points.device).T
        beyond = torch.maximum(low - points, points - high)  # of each pair of sides
        far = _length(beyond.clamp(min=0))  # from the corner, where that is nearest
        return torch.where((beyond > 0).any(-1), far, beyond.amax(-1))


@dataclass(frozen=True)
class Disc:
    """A disc: its centre and radius, metres. Raises ValueError where that is none."""

    centre: tuple[float, float]
    radius: float

    def __post_init__(self) -> None:
        if not (0 < self.radius < math.inf and all(map(math.isfinite, self.centre))):
            raise ValueError(
                f"a disc needs a finite centre and a radius above 0, got {self.centre} and "
                f"{self.radius!r}"
            )

    def distance(self, points: Tensor) -> Tensor:
        """See `Region.distance`."""
        return _length(points - _constant(self.centre, points.dtype, points.device)) - self.radius


@dataclass(frozen=True)
class Polygon:
    """A polygon, convex or not: its corners in order, metres; edges must not cross.

    Raises ValueError for fewer than three corners, and where they are not finite.
    """

    corners: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        numbers = [number for corner in self.corners for number in corner]
        if len(self.corners) < 3 or not all(map(math.isfinite, numbers)):
            raise ValueError(f"a polygon needs 3 or more finite corners, got {self.corners}")

    def distance(self, points: Tensor) -> Tensor:
        """See `Region.distance`."""
        first = _constant(self.corners, points.dtype, points.device)  # [n, 2], as all that follows
        edge = first.roll(-1, 0) - first
        away = points.unsqueeze(-2) - first  # [..., n, 2]
        along = (away * edge).sum(-1) / edge.square().sum(-1).clamp(min=1e-18)
        nearest = away - along.clamp(0, 1).unsqueeze(-1) * edge
        border = _length(nearest).amin(-1)
        # A ray to the right crosses the border an odd number of times from inside.
        above = away[..., 1] >= 0
        crosses = above != (away - edge)[..., 1].ge(0)
        left = away[..., 0] * edge[:, 1] < away[..., 1] * edge[:, 0]
        hit = crosses & torch.where(edge[:, 1] > 0, left, ~left)
        inside = hit.sum(-1) % 2 == 1
        return torch.where(inside, -border, border)


# -------------------------------------------------------------------------------------- limits
@dataclass(frozen=True, eq=False)
class Limit:
    """A guardrail: a number for each imagined step may be at most `most`, less a margin.

    name: what it is called in plans and reports.
    unit: of the number.
    value: (trajectory, actions [E, S, T, A]) -> [E, S, T].
    most: the largest that is safe.
    margin: distance that predictions must keep from that, because they err; in the same unit.
    tier: see `planners.Guardrail`.

    Raises ValueError for a bound or margin that is not finite, or a margin below 0.
    """

    name: str
    unit: str
    value: Callable[[Trajectory, Tensor], Tensor]
    most: float = 0.0
    margin: float = 0.0
    tier: int = 2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.most) and 0 <= self.margin < math.inf):
            raise ValueError(
                f"guardrail {self.name!r} needs a finite limit and a finite margin of at least 0, "
                f"got {self.most!r} and {self.margin!r}"
            )

    def __call__(self, trajectory: Trajectory, actions: Tensor) -> Tensor:
        """See `planners.Guardrail`."""
        return self.value(trajectory, actions) - (self.most - self.margin)


def swept(
    region: Region, points: Tensor, start: Tensor | None, parts: int = 8
) -> tuple[Tensor, Tensor]:
    """Bounds of the distance from a region on the straight line from each frame to the next.

    Returns a lower bound of the least and an upper bound of the largest, ``[E, S, T]`` each.

    A distance changes no faster than the position does. So along a segment of length l, with
    distances a and b at its ends, it lies between (a + b - l) / 2 and (a + b + l) / 2.

    points: positions at the frames, ``[E, S, T, 2]``.
    start: position before them, ``[E, 2]``; None where unknown: then the first line is a point.
    parts: segments of each line.
    """
    first = points[:, :, :1] if start is None else start[:, None, None].expand_as(points[:, :, :1])
    before = torch.cat([first, points[:, :, :-1]], 2)
    share = torch.linspace(0, 1, parts + 1, device=points.device, dtype=points.dtype)
    way = torch.lerp(before.unsqueeze(-2), points.unsqueeze(-2), share[:, None])
    distance = region.distance(way)  # [E, S, T, parts + 1]
    length = _length(points - before).unsqueeze(-1) / parts
    ends = distance[..., 1:] + distance[..., :-1]
    return (ends - length).amin(-1) / 2, (ends + length).amax(-1) / 2


def no_go(
    region: Region,
    where: Read,
    start: Tensor | None = None,
    clearance: float = 0.0,
    margin: float = 0.0,
    name: str = "no_go",
) -> Limit:
    """An object stays out of a region, also between frames.

    where: its position, ``[E, S, T, 2]``.
    start: its present position, ``[E, 2]``.
    clearance: distance from the border, such as its radius.
    """

    def depth(trajectory: Trajectory, actions: Tensor) -> Tensor:
        return -swept(region, where(trajectory), start)[0]

    return Limit(name, "m", depth, -clearance, margin)


def stay_inside(
    region: Region,
    where: Read,
    start: Tensor | None = None,
    clearance: float = 0.0,
    margin: float = 0.0,
    name: str = "stay_inside",
) -> Limit:
    """An object stays inside a region; arguments as of `no_go`."""

    def beyond(trajectory: Trajectory, actions: Tensor) -> Tensor:
        return swept(region, where(trajectory), start)[1]

    return Limit(name, "m", beyond, -clearance, margin)


def keep_apart(
    one: Read, other: Read, least: float, margin: float = 0.0, name: str = "keep_apart"
) -> Limit:
    """Two objects, at positions ``[E, S, T, 2]`` each, stay at least `least` metres apart."""

    def near(trajectory: Trajectory, actions: Tensor) -> Tensor:
        return -_length(one(trajectory) - other(trajectory))

    return Limit(name, "m", near, -least, margin)


def at_most(
    read: Read, most: float, unit: str, margin: float = 0.0, name: str = "at_most"
) -> Limit:
    """The length of a vector ``[E, S, T, n]``, such as a velocity, is at most `most`."""

    def length(trajectory: Trajectory, actions: Tensor) -> Tensor:
        return _length(read(trajectory))

    return Limit(name, unit, length, most, margin)


def points_inside(
    points: Sequence[tuple[tuple[int, int], Region, float]],
    width: int,
    margin: float = 0.0,
    name: str = "points_inside",
) -> Limit:
    """The points of an action, such as the ends of a stroke, stay inside regions. An action whose
    points coincide is no motion, and may lie anywhere.

    Args:
        points: of each point, the columns of its x and y in an action, the region, and how far it
            stays inside, metres.
        width: numbers of an action ``A``; planned actions ``[E, S, T, n * A]`` hold n of them.
        margin: metres.
        name: of the guardrail.
    """
    furthest = max(inset for _, _, inset in points)

    def beyond(trajectory: Trajectory, actions: Tensor) -> Tensor:
        each = actions.unflatten(-1, (-1, width))
        places = [each[..., list(columns)] for columns, _, _ in points]
        outside = torch.stack(
            [r.distance(p) + inset for p, (_, r, inset) in zip(places, points, strict=True)]
        ).amax(0)
        length = torch.stack([(p - places[0]).abs().amax(-1) for p in places]).amax(0)
        still = (length <= 1e-3) & (len(points) > 1)
        return torch.where(still, -furthest, outside).amax(-1)

    return Limit(name, "m", beyond, 0.0, margin)


def lose_at_most(
    count: Read,
    now: Tensor,
    most: float,
    unit: str,
    margin: float = 0.0,
    name: str = "lose_at_most",
) -> Limit:
    """A count falls by at most `most` from now on.

    count: its predicted value, ``[E, S, T, 1]``.
    now: its present value, ``[E, 1]``.
    """

    def lost(trajectory: Trajectory, actions: Tensor) -> Tensor:
        return (now[:, None, None] - count(trajectory)).squeeze(-1)

    return Limit(name, unit, lost, most, margin)


def unlike(
    examples: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    least: float,
    margin: float = 0.0,
    name: str = "unlike",
) -> Limit:
    """Predicted latents stay away from those of example images.

    examples: latents of the images, ``[N, P, D]``.
    distance: squared distance ``[...]`` of latents ``[..., P, D]`` from others.
    least: the least distance from each example.
    """

    def like(trajectory: Trajectory, actions: Tensor) -> Tensor:
        return -distance(trajectory.z.unsqueeze(3), examples).amin(-1)  # [E, S, T, N] before

    return Limit(name, "latent distance", like, -least, margin)


@functools.lru_cache(maxsize=256)
def _constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of constants. It is copied to the device once: every copy waits for a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def _length(vectors: Tensor) -> Tensor:
    """Length of vectors ``[..., n]``; differentiable at 0, too."""
    return (vectors.square().sum(-1) + 1e-18).sqrt()
