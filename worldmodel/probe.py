"""How much of the simulator's state can be read from frozen tokens? R^2 on held-out episodes.

    python -m worldmodel.probe --data data/pusht --encoders dino-112,random-112 --out probe.json

Two probes per encoder, on the patch tokens of single frames: ridge regression on their PCA, in
closed form, and a small attention probe, one transformer block and an MLP, trained until it stops
improving. (An MLP on the flattened tokens did worse than ridge: it has to learn an
object's looks anew at every place.) With `--checkpoints pusht`, ridge also reads the latents of
that world model; `--save true` keeps how to read them, for guardrails: then latents that were
imagined, 1 to T model steps ahead, teach the reading as well. Velocities are left out by default:
one frame does not show them. State is simulator truth: it measures the encoder here, and is seen by
no planner.
"""

from __future__ import annotations

import copy
import re
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.checkpoint import load_checkpoint, record
from worldmodel.cli import Progress, atomic_write_json, parse_config, progress, run
from worldmodel.data import Dataset, open_dataset, split
from worldmodel.encoder import Block, Encoder, load_encoder
from worldmodel.errors import UserError
from worldmodel.guardrails import chips_left
from worldmodel.predictor import WorldModel

_ANGLE = re.compile(r"(angle|theta|yaw)$")
_CHIP = re.compile(r"chip\d+_[xy]$")
_HIDDEN = re.compile(r"(^|[ _.])(v[xyz]?|omega|velocity|.*_?seed)$")  # not in a single frame


@dataclass(frozen=True)
class ProbeConfig:
    """One comparison of encoders.

    Attributes:
        data: dataset folder whose episodes recorded the simulator's state.
        encoders: names separated by commas; "name=weights" gives one its local weights.
        checkpoints: world models whose latents are probed, too, by ridge: names or folders,
            separated by commas.
        targets: state names separated by commas; empty means all but velocities. Angles are
            replaced by their sine and cosine, the places of chips by how many are in the tray.
        frames: frames used in all.
        components: PCA components of the flattened tokens that ridge sees.
        save: keep with each of the checkpoints how to read the targets off its latents.
        held_out: share of the episodes that R^2 is measured on.
        seed: of the draw and of the attention probe.
        out: JSON file for the result; empty writes none.
    """

    data: str = "data/pusht"
    encoders: str = "dino-112,random-112"
    checkpoints: str = ""
    save: bool = False
    targets: str = ""
    frames: int = 20_000
    components: int = 1024
    held_out: float = 0.1
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if self.frames < 100 or self.components < 1:
            raise UserError(
                f"frames is {self.frames} and components {self.components}; a probe needs at "
                "least 100 frames and 1 component."
            )


def targets_of(dataset: Dataset, wanted: str = "") -> tuple[list[str], np.ndarray]:
    """Names and values [N, K] of what a probe should predict.

    Raises:
        UserError: the dataset recorded no state, or a name is not one of its state.
    """
    if dataset.state is None:
        raise UserError(f"{dataset.path} recorded no simulator state, so nothing can be probed.")
    known = dataset.state_names or tuple(str(i) for i in range(dataset.state.shape[1]))
    names = [n.strip() for n in wanted.split(",") if n.strip()]
    for name in names:
        if name not in known:
            raise UserError(f"target {name!r} is not in the state: {', '.join(known)}.")
    names = names or [n for n in known if not (_HIDDEN.search(n) or _CHIP.match(n))]
    labels, columns = [], []
    if "chip0_x" in known and not wanted:  # which is which cannot be seen, but how many there are
        labels.append("chips")
        columns.append(chips_left(known, torch.from_numpy(dataset.state)).numpy())
    for name in names:
        values = dataset.state[:, known.index(name)]
        if _ANGLE.search(name):
            labels += [f"sin {name}", f"cos {name}"]
            columns += [np.sin(values), np.cos(values)]
        else:
            labels.append(name)
            columns.append(values)
    moving = [i for i, column in enumerate(columns) if column.std() > 1e-9]
    return [labels[i] for i in moving], np.stack([columns[i] for i in moving], 1)


def encode_frames(encoder: Encoder, dataset: Dataset, frames: np.ndarray) -> Tensor:
    """Tokens of the given frames, float16 [n, P, D]."""
    out = torch.empty(len(frames), encoder.num_tokens, encoder.dim, dtype=torch.float16)
    bar: Progress[None]
    with progress(total=len(frames), description=encoder.name, unit="frame") as bar:
        for i in range(0, len(frames), 512):
            tokens = encoder.encode(dataset.pixels(frames[i : i + 512]))
            out[i : i + 512] = tokens
            bar.update(len(tokens))
    return out


def pca(tokens: Tensor, fit: Tensor, components: int) -> Tensor:
    """PCA of flattened tokens [n, P, D], float32 [n, components], half-whitened.

    The components come from the rows `fit`, through their Gram matrix: there are far fewer of them
    than the P * D numbers of each. Half-whitened, because small objects live in small components.
    """
    sample = tokens[fit].flatten(1).float()
    mean = sample.mean(0)
    sample -= mean
    values, vectors = torch.linalg.eigh(sample @ sample.T)
    keep = min(components, len(fit) - 1)
    values, vectors = values[-keep:].flip(0).clamp_min(1e-6), vectors[:, -keep:].flip(1)
    basis = sample.T @ (vectors / values.sqrt() / (values * values[0]).pow(0.25))
    return torch.cat([(t.flatten(1).float() - mean) @ basis for t in tokens.split(512)])


def r2(predicted: Tensor, truth: Tensor) -> Tensor:
    """Coefficient of determination of each column; 0 is as good as the mean, 1 is perfect."""
    return 1 - (predicted - truth).square().sum(0) / (truth - truth.mean(0)).square().sum(0)


def ridge(x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
    """Weights [C + 1, K] of ridge regression, its strength chosen per target on validation data."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    x_val = torch.cat([x_val, torch.ones(len(x_val), 1)], 1).double()
    # One eigendecomposition serves every strength.
    values, vectors = torch.linalg.eigh(x.T @ x)
    projected = vectors.T @ (x.T @ y.double())
    strengths = 10.0 ** torch.arange(-7.0, 1.0) * values.max()
    solutions = torch.stack(
        [vectors @ (projected / (values.clamp_min(0) + s)[:, None]) for s in strengths]
    )
    errors = (x_val @ solutions - y_val.double()).square().mean(1)
    best = errors.argmin(0)
    return solutions[best, :, torch.arange(y.shape[1])].T.float()


class AttentionProbe(nn.Module):
    """Tokens [B, P, D] to targets [B, K]: a transformer block, a few channels a token, an MLP."""

    def __init__(self, num_tokens: int, dim: int, targets: int, width: int = 96) -> None:
        super().__init__()
        self.inward = nn.Linear(dim, width)
        self.pos = nn.Parameter(0.5 * torch.randn(1, num_tokens, width))
        self.block = Block(width, 3)
        self.norm = nn.LayerNorm(width)
        self.narrow = nn.Linear(width, 8)
        self.outward = nn.Sequential(
            nn.Linear(8 * num_tokens, 256), nn.GELU(), nn.Linear(256, targets)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.block(self.inward(tokens) + self.pos))
        return self.outward(self.narrow(x).flatten(1))


def fit_attention(x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, seed: int) -> AttentionProbe:
    """An AttentionProbe of tokens x [n, P, D], trained until lower learning rates bring no more."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AttentionProbe(x.shape[1], x.shape[2], y.shape[1])
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    best, best_state, waited, cuts = float("inf"), copy.deepcopy(model.state_dict()), 0, 0
    for epoch in range(100):
        for index in torch.randperm(len(x), generator=g).split(128):
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(_predict(model, x[index]), y[index]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        error = float(F.mse_loss(_evaluate(model, x_val), y_val))
        waited += 1
        if error < 0.99 * best:
            best, best_state, waited = error, copy.deepcopy(model.state_dict()), 0
        elif waited >= 3 and epoch >= 12:  # angles start late, after a plateau
            cuts, waited = cuts + 1, 0
            if cuts > 2:
                break
            model.load_state_dict(best_state)
            for group in optimizer.param_groups:
                group["lr"] *= 0.3
    model.load_state_dict(best_state)
    return model


def _predict(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(tokens.float()).float()


@torch.no_grad()
def _evaluate(model: nn.Module, tokens: Tensor) -> Tensor:
    return torch.cat([_predict(model, part) for part in tokens.split(512)])


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Probe every encoder; returns what `--out` holds."""
    dataset = open_dataset(config.data)
    names, values = targets_of(dataset, config.targets)
    if dataset.episodes < 3:
        raise UserError(f"{config.data} has {dataset.episodes} episodes; a probe needs 3 or more.")
    rng = np.random.default_rng(config.seed)
    train_episodes, test_episodes = split(dataset, config.held_out)
    # Whole episodes for validation too: frames of one episode are near copies of each other.
    shuffled = rng.permutation(train_episodes)
    count = max(1, len(shuffled) // 10)
    parts = [shuffled[count:], shuffled[:count], test_episodes]
    total = sum(len(_frames_of(dataset, p)) for p in parts)
    keep = min(1.0, config.frames / total)
    drawn = [_frames_of(dataset, p) for p in parts]
    drawn = [np.sort(rng.permutation(f)[: max(2, round(len(f) * keep))]) for f in drawn]
    frames = np.concatenate(drawn)
    cut = (len(drawn[0]), len(drawn[0]) + len(drawn[1]))
    fit = torch.from_numpy(rng.permutation(len(drawn[0]))[:2048])

    y_all = torch.from_numpy(values[frames]).float()
    scale, shift = y_all[: cut[0]].std(0).clamp_min(1e-9), y_all[: cut[0]].mean(0)
    y, y_val, y_test = ((y_all - shift) / scale).tensor_split(cut)
    rows: list[dict[str, Any]] = []

    def note(name: str, encoder: Encoder, kind: str, predicted: Tensor, started: float) -> None:
        score = [float(s) for s in r2(predicted, y_test)]
        rows.append(
            {
                "encoder": name,
                "encoder_hash": encoder.hash,
                "probe": kind,
                "r2": dict(zip(names, score, strict=True)),
                "mean_r2": float(np.mean(score)),
                "seconds": time.monotonic() - started,
            }
        )

    def read_linearly(features: Tensor) -> Tensor:
        x, x_val, x_test = features.tensor_split(cut)
        solution = ridge(x, y, x_val, y_val)
        return x_test @ solution[:-1] + solution[-1]

    for spec in _listed(config.encoders):
        name, _, weights = spec.partition("=")
        started = time.monotonic()
        encoder = load_encoder(name, weights or None)
        tokens = encode_frames(encoder, dataset, frames)
        linear = read_linearly(pca(tokens, fit, config.components))
        z, z_val, z_test = tokens.tensor_split(cut)
        attention = _evaluate(fit_attention(z, y, z_val, y_val, config.seed), z_test)
        for kind, predicted in (("ridge", linear), ("attention", attention)):
            note(spec, encoder, kind, predicted, started)
    for name in _listed(config.checkpoints):
        started = time.monotonic()
        model, encoder, _ = load_checkpoint(name)
        tokens = encode_frames(encoder, dataset, frames)
        with torch.no_grad():
            z = torch.cat([model.project(part.float()) for part in tokens.split(512)]).flatten(1)
        z = (z - z[: cut[0]].mean(0)) / z[: cut[0]].std(0).clamp_min(1e-9)
        note(f"latents of {name}", encoder, "ridge", read_linearly(z), started)
    return {
        "data": config.data,
        "data_hash": dataset.hash,
        "frames": {k: len(f) for k, f in zip(("train", "val", "test"), drawn, strict=True)},
        "held_out_episodes": len(test_episodes),
        "components": config.components,
        "seed": config.seed,
        "results": rows,
    }


@torch.no_grad()
def imagined(
    model: WorldModel,
    encoder: Encoder,
    dataset: Dataset,
    episodes: np.ndarray,
    clips: int,
    horizon: int,
    rng: np.random.Generator,
) -> tuple[Tensor, np.ndarray]:
    """Latents of one frame and of what is imagined to follow when done what was done.

    Returns:
        ``[clips, 1 + horizon, P * D]``, and which frames of the dataset they are about.
    """
    skip, context = model.config.frameskip, model.config.context
    starts = [
        np.arange(f.start + skip * (context - 1), f.stop - skip * horizon)
        for f in map(dataset.frames, episodes.tolist())
    ]
    possible = np.concatenate(starts)
    if not len(possible):
        needed = skip * (context - 1 + horizon)
        raise UserError(f"no episode of {dataset.path} has {needed} actions: record longer ones")
    now = np.sort(rng.choice(possible, min(clips, len(possible)), replace=False))
    past = now[:, None] + skip * np.arange(1 - context, 1)  # [n, K]
    seen = np.unique(past)
    tokens = encode_frames(encoder, dataset, seen)
    z = torch.cat([model.project(part.float()) for part in tokens.split(512)])
    at = torch.from_numpy(np.searchsorted(seen, past))
    steps = now[:, None] + np.arange(skip * (1 - context), skip * horizon)
    actions = torch.from_numpy(dataset.actions[steps]).unflatten(1, (-1, skip)).flatten(2)
    proprio = torch.from_numpy(dataset.proprio[past]).float()
    done, ahead = actions.split([context - 1, horizon], 1)
    found = model.rollout(z[at], proprio, done, ahead.unsqueeze(1)).z[:, 0]
    both = torch.cat([z[at][:, -1:], found], 1).flatten(2)
    return both, now[:, None] + skip * np.arange(horizon + 1)


def save_probe(name: str, dataset: Dataset, targets: str, held_out: float, seed: int) -> str:
    """Teach a linear reading of the targets off the latents of a checkpoint, encoded and imagined,
    and keep it there. Returns a table of its mean absolute errors on held-out episodes."""
    model, encoder, info = load_checkpoint(name)
    names, values = targets_of(dataset, targets)
    rng = np.random.default_rng(seed)
    train, test = split(dataset, held_out)
    shuffled = rng.permutation(train)
    count = max(1, len(shuffled) // 10)
    parts = [
        imagined(model, encoder, dataset, episodes, clips, info.horizon, rng)
        for episodes, clips in ((shuffled[count:], 4000), (shuffled[:count], 500), (test, 1000))
    ]
    z, y = [p[0] for p in parts], [torch.from_numpy(values[p[1]]).float() for p in parts]
    mean, std = z[0].mean((0, 1)), z[0].std((0, 1)).clamp_min(1e-6)
    shift, scale = y[0].mean((0, 1)), y[0].std((0, 1)).clamp_min(1e-9)
    x = [((part - mean) / std).flatten(0, 1) for part in z]
    normal = [((part - shift) / scale).flatten(0, 1) for part in y]
    found = ridge(x[0], normal[0], x[1], normal[1])
    slope = found[:-1] * scale / std[:, None]
    weights = torch.cat([slope, (found[-1] * scale + shift - mean @ slope)[None]])
    errors = (z[2] @ weights[:-1] + weights[-1] - y[2]).abs()  # [n, 1 + T, targets]
    by_depth = {
        "mean": errors.mean(0).T.tolist(),
        "p95": errors.quantile(0.95, 0).T.tolist(),
    }
    rounded = {
        kind: {n: [float(f"{e:.4g}") for e in row] for n, row in zip(names, rows, strict=True)}
        for kind, rows in by_depth.items()
    }
    record(
        name,
        probe={
            "names": names,
            "weights": weights.tolist(),
            "data": dataset.env_id,
            "clips": [len(part) for part in z],
            "errors": rounded,
        },
    )
    depths = range(info.horizon + 1)
    lines = [
        f"Mean absolute error of the reading of {name}, held-out episodes (95 %):",
        "",
        "| model steps ahead | " + " | ".join(map(str, depths)) + " |",
        "|---|" + "---:|" * len(depths),
    ]
    for target in names:
        mean_of, high = rounded["mean"][target], rounded["p95"][target]
        cells = [f"{m:.4f} ({h:.4f})" for m, h in zip(mean_of, high, strict=True)]
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(result: dict[str, Any]) -> str:
    """The result as a markdown table."""
    names = list(result["results"][0]["r2"])
    lines = [
        "| encoder | probe | " + " | ".join(names) + " | mean |",
        "|---|---|" + "---:|" * (len(names) + 1),
    ]
    for row in result["results"]:
        cells = [f"{row['r2'][n]:.3f}" for n in names] + [f"{row['mean_r2']:.3f}"]
        lines.append(f"| {row['encoder']} | {row['probe']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _frames_of(dataset: Dataset, episodes: np.ndarray) -> np.ndarray:
    spans = [dataset.frames(int(e)) for e in episodes]
    return np.concatenate([np.arange(s.start, s.stop) for s in spans])


@run
def main(argv: list[str] | None = None) -> None:
    """Command line; exits with 2 on a user error."""
    description = "Measure how much of the state frozen tokens hold."
    config = parse_config(ProbeConfig, argv, "worldmodel.probe", description)
    if not _listed(config.encoders) and not _listed(config.checkpoints):
        raise UserError("encoders and checkpoints are empty; name at least one, such as dino-112.")
    result = probe(config)
    print(table(result))
    dataset = open_dataset(config.data)
    for name in _listed(config.checkpoints) if config.save else ():
        print()
        print(save_probe(name, dataset, config.targets, config.held_out, config.seed))
    if config.out:
        atomic_write_json(config.out, result)


if __name__ == "__main__":
    sys.exit(main())
