"""Coordinates of logged frames along the manifold they lie on, found without labels.

Frozen tokens tell small differences well and large ones not at all: once a thing has moved by its
own size, or turned by a quarter, its image is as different as it will ever be. Distances that mean
something are therefore summed up along chains of similar frames, and coordinates are found whose
differences are such distances: Isomap (Tenenbaum et al. 2000), from a few landmarks (de Silva and
Tenenbaum 2003).

One pair of frames that merely look alike is a short cut which spoils the distances of thousands.
So neighbours count only if each is among the other's nearest, and if they have others in common
(shared nearest neighbours, Jarvis and Patrick 1973).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags  # type: ignore[import-untyped]
from scipy.sparse.csgraph import (  # type: ignore[import-untyped]
    connected_components,
    dijkstra,
)
from torch import Tensor, nn

from worldmodel.cli import Progress, progress
from worldmodel.errors import UserError
from worldmodel.predictor import Coordinates, principal_axes

Array = NDArray[Any]

PLACE = 2.0  # standard deviation of either coordinate of the place, in those of everything seen
FEWEST = 3  # neighbours of a frame that is believed


def hidden_coordinates(
    tokens: Array, latents: Array, proprio: Array, follows: Array, count: int, seed: int = 0
) -> Array:
    """What varies along the manifold of frames beyond what is known of them already.

    Known are proprio and the place of what the robot moves: the two directions in which latents
    vary most (if these are points, the place of what most of them look at) once what moves along
    with the robot is taken away.

    Args:
        tokens: the encoder's, of logged frames, ``[M, N, C]``.
        latents: of the same frames, ``[M, ...]``.
        proprio: ``[M, Dp]``.
        follows: whether the next frame was logged right after this one, bool ``[M - 1]``.
        count: of coordinates.

    Returns:
        ``[M, count]``, of mean 0 and standard deviation 1; NaN for frames too unlike all others.
    """
    measured = torch.from_numpy(proprio)
    left = left_behind(torch.from_numpy(latents).flatten(1), measured, torch.from_numpy(follows))
    place = left @ torch.linalg.eigh(left.T @ left)[1][:, -2:]
    place /= place.std(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        seen = unexplained(principal_components(tokens), torch.cat([measured, place], 1))
    # What is seen says only near by how far things moved; that frames are far apart, place tells.
    features = torch.cat([seen, PLACE * seen.std() * math.sqrt(seen.shape[1]) * place], 1)
    graph = neighbour_graph(features)
    coordinates = geodesic_coordinates(with_chains(graph, features, follows), count + 4)
    coordinates = smoothed(coordinates, graph)
    coordinates[(graph > 0).sum(1).A1 < FEWEST] = np.nan
    known = np.isfinite(coordinates).all(1)
    given = np.c_[place.numpy()[known], np.ones(known.sum())]
    rest = coordinates[known] - given @ np.linalg.lstsq(given, coordinates[known], rcond=None)[0]
    rest = rest @ np.linalg.svd(rest, full_matrices=False)[2][:count].T
    found = np.full((len(coordinates), count), np.nan, np.float32)
    found[known] = rest / rest.std(0)
    return found


def teach(
    coordinates: Coordinates,
    tokens: Array,
    targets: Array,
    seed: int = 0,
    passes: int = 11,
    batch: int = 512,
) -> None:
    """Train `coordinates` to see in tokens ``[M, N, C]`` what `hidden_coordinates` has found.

    Not for long: what is wrong about the targets is learnt last.
    """
    known = np.flatnonzero(np.isfinite(targets).all(1))
    steps = math.ceil(passes * len(known) / batch)
    rng, device = np.random.default_rng(seed), coordinates.scale.device
    learning = copy.deepcopy(coordinates).requires_grad_(True)
    learning.scale.fill_(1.0)
    matrices = [p for p in learning.parameters() if p.ndim == 2]
    others = [p for p in learning.parameters() if p.ndim != 2]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, weight_decay=1e-3, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=1e-3),
    ]
    bar: Progress[Any] = progress(total=steps, description=f"coordinates of {len(known)} frames")
    with bar:
        for step in range(steps):
            chosen = known[rng.integers(len(known), size=batch)]
            seen = torch.from_numpy(tokens[chosen]).to(device).bfloat16()
            with torch.autocast(device.type, torch.bfloat16):
                guess = learning(seen)[:, 0]
            # Where the manifold is torn, targets are far off: they must not be squared.
            target = torch.from_numpy(targets[chosen]).to(device)
            loss = F.huber_loss(guess, target, delta=0.5)
            done = step / steps
            rate = 2e-3 * min(1.0, 10 * done + 0.01) * (1 + math.cos(math.pi * done)) / 2
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                decay = min(0.99, (1 + step) / (10 + step))
                torch._foreach_lerp_(
                    list(coordinates.parameters()), list(learning.parameters()), 1 - decay
                )
            bar.update(1, loss=float(loss.detach()))
    coordinates.scale.fill_(coordinates.SCALE)


def principal_components(tokens: Array, channels: int = 48, components: int = 512) -> Tensor:
    """Tokens ``[M, N, C]`` as ``[M, components]``: principal components of whole images, after
    those of single patches, all of which count the same, so that small things are seen too."""

    def batches(step: int) -> Iterator[Tensor]:
        for at in range(0, len(tokens), 4096):
            yield torch.from_numpy(tokens[at : at + 4096 : step]).float()

    sample = torch.cat(list(batches(max(1, len(tokens) // 2700))))
    mean = sample.mean(0)
    basis = principal_axes((sample - mean).flatten(0, 1), channels)
    basis /= ((sample - mean) @ basis).flatten(0, 1).std(0).clamp_min(1e-6)
    images = ((sample - mean) @ basis).flatten(1)
    axes = torch.pca_lowrank(images, min(components, *images.shape))[2]
    return torch.cat([((part - mean) @ basis).flatten(1) @ axes for part in batches(1)])


def left_behind(latents: Tensor, proprio: Tensor, follows: Tensor) -> Tensor:
    """What of `latents` ``[M, L]`` does not move along when the robot moves by itself, of mean 0.

    Changes of latents are regressed on those of proprio ``[M, Dp]``. Where the robot moves
    something, the latents change otherwise: such frames are outliers, and there may be many of
    them. So squares are weighted down until only the mode counts (a Cauchy loss, sharpened).
    """
    first = follows.nonzero()[:, 0]
    change = latents[first + 1] - latents[first]
    moved = proprio[first + 1] - proprio[first]
    size = change.norm(dim=1).median()
    weight = torch.ones(len(first), 1)
    for sharpness in (1, 2, 4, 8):
        for _ in range(8):
            along = torch.linalg.lstsq(moved * weight, change * weight).solution
            miss = (change - moved @ along).norm(dim=1, keepdim=True)
            weight = 1 / (miss.square() + (size / sharpness) ** 2)
    left = latents - proprio @ along
    return left - left.mean(0)


def unexplained(features: Tensor, known: Tensor, steps: int = 1500) -> Tensor:
    """What of `features` ``[M, C]`` does not follow from what is `known` ``[M, n]`` anyway, such as
    the robot's own position: the residual of a small network."""
    scale = features.std()
    known = (known - known.mean(0)) / known.std(0).clamp_min(1e-6)
    net = nn.Sequential(
        nn.Linear(known.shape[1], 256),
        nn.GELU(),
        nn.Linear(256, 256),
        nn.GELU(),
        nn.Linear(256, features.shape[1]),
    )
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(features), (1024,))
        loss = F.mse_loss(net(known[chosen]), features[chosen] / scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return features / scale - net(known)


def neighbour_graph(features: Tensor, neighbours: int = 14, shared: int = 8) -> csr_matrix:
    """Distances between frames that are mutual neighbours and share at least `shared` others.

    Args:
        features: ``[M, C]``; Euclidean distances between them mean something when small.
        neighbours: the nearest that are considered.
        shared: how many of those two frames must have in common.

    Returns:
        A symmetric sparse matrix ``[M, M]``.
    """
    count = len(features)
    if count <= neighbours:
        raise UserError(f"{count} frames have no {neighbours} neighbours each: log more")
    square = features.square().sum(1)
    distances, nearest = [], []
    starts = range(0, count, 2048)
    for at in progress(starts, len(starts), "neighbours"):
        part = slice(at, at + 2048)
        apart = square[part, None] + square - 2 * features[part] @ features.T
        apart[torch.arange(len(apart)), torch.arange(at, at + len(apart))] = torch.inf
        values, indices = apart.topk(neighbours, largest=False)
        distances.append(values.clamp_min(1e-12).sqrt())
        nearest.append(indices)
    rows = np.repeat(np.arange(count), neighbours)
    columns = torch.cat(nearest).flatten().numpy().copy()
    near = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (count, count))
    apart = csr_matrix((torch.cat(distances).flatten().numpy(), (rows, columns)), near.shape)
    mutual = near.multiply(near.T)
    common = ((near @ near.T).multiply(mutual) + mutual).tocsr()  # one more, so that none is seen
    graph: csr_matrix = apart.maximum(apart.T).multiply(common > shared).tocsr()
    graph.eliminate_zeros()
    return graph


def with_chains(graph: csr_matrix, features: Tensor, follows: Array) -> csr_matrix:
    """`graph`, and in it every frame joined to the next one where it `follows` (bool ``[M - 1]``):
    what was logged in a row is connected whatever it looks like."""
    first = np.flatnonzero(follows)
    length = (features[first + 1] - features[first]).norm(dim=1).numpy()
    chains = csr_matrix((length, (first, first + 1)), graph.shape)
    return graph.maximum(chains.maximum(chains.T)).tocsr()


def geodesic_coordinates(
    graph: csr_matrix, dimensions: int, landmarks: int = 256, seed: int = 0
) -> Array:
    """Coordinates ``[M, dimensions]`` whose differences approximate shortest paths in `graph`,
    first those along which frames differ most; NaN for frames no path leads to."""
    _, part = connected_components(graph, directed=False)
    connected = np.flatnonzero(part == np.bincount(part).argmax())
    landmarks = min(landmarks, len(connected))
    if landmarks <= dimensions:
        raise UserError(
            f"only {len(connected)} frames are connected, too few for {dimensions} coordinates"
        )
    chosen = np.random.default_rng(seed).choice(connected, landmarks, replace=False)
    square = dijkstra(graph, directed=False, indices=chosen)[:, connected] ** 2
    among = square[:, np.searchsorted(connected, chosen)]
    # Classical scaling of the landmarks; everything else is placed by its distances to them.
    centred = among - among.mean(0) - among.mean(1, keepdims=True) + among.mean()
    values, vectors = np.linalg.eigh(-0.5 * centred)
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    placing = vectors / np.sqrt(np.maximum(values, 1e-9))
    coordinates = np.full((graph.shape[0], dimensions), np.nan)
    coordinates[connected] = -0.5 * (square - among.mean(1, keepdims=True)).T @ placing
    return coordinates


def smoothed(coordinates: Array, graph: csr_matrix, rounds: int = 4) -> Array:
    """`coordinates` averaged over neighbours in `graph`, `rounds` times."""
    known = np.asarray(np.isfinite(coordinates).all(axis=1))
    near = (graph > 0).astype(float).multiply(known[None]).tocsr() + diags(known.astype(float))
    mean = diags(1 / np.maximum(near.sum(1).A1, 1)) @ near
    values = np.where(known[:, None], coordinates, 0)
    for _ in range(rounds):
        values = mean @ values
    return np.where(known[:, None], values, np.nan)
