"""Probes of three kinds, and their held-out accuracy.

Ridge regression, in closed form, finds linear information; an MLP also finds other information. A
small transformer probes the patch tokens of an image, in which an MLP would have to learn an
object's appearance separately at every position. MLP and transformer are trained until they stop
improving on validation data.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.encoders.vit import ViTBlock


class Parts(NamedTuple):
    """Features or targets of the frames to train, to validate and to test on, ``[n, ...]`` each."""

    train: Tensor
    val: Tensor
    test: Tensor


def narrow(features: Parts, components: int, seed: int) -> Parts:
    """Features ``[n, ...]`` as inputs of probes ``[n, C]``: standardised; or, for more than
    `components` of them, their leading principal components, half-whitened, because small objects
    show in small components."""
    first = features.train
    if first[0].numel() <= components:
        flat = [part.flatten(1).float() for part in features]
        mean, std = flat[0].mean(0), flat[0].std(0).clamp_min(1e-6)
        return Parts(*((part - mean) / std for part in flat))
    # Through the Gram matrix of some frames: there are far fewer of them than numbers of each.
    g = torch.Generator().manual_seed(seed)
    sample = first[torch.randperm(len(first), generator=g)[:2048]].flatten(1).float()
    mean = sample.mean(0)
    sample -= mean
    values, vectors = torch.linalg.eigh(sample @ sample.T)
    keep = min(components, len(sample) - 1)
    values, vectors = values[-keep:].flip(0).clamp_min(1e-6), vectors[:, -keep:].flip(1)
    spread = (values / len(sample)).sqrt()
    basis = sample.T @ (vectors / values.sqrt() / (spread * spread[0]).sqrt())
    return Parts(
        *(
            torch.cat([(some.flatten(1).float() - mean) @ basis for some in part.split(512)])
            for part in features
        )
    )


def read(probe: str, x: Parts, y: Parts, seed: int) -> Tensor:
    """Predictions ``[n, K]`` of a probe for the test features, in the units of the targets y.

    Args:
        probe: "ridge", "MLP" or "attention". Only "attention" takes features that are not narrow.
        x: features.
        y: targets.
        seed: seed of the training.
    """
    mean, std = y.train.mean(0), y.train.std(0).clamp_min(1e-9)
    known = ((y.train - mean) / std, (y.val - mean) / std)
    if probe == "ridge":
        weights = ridge(x.train, known[0], x.val, known[1])
        found = x.test @ weights[:-1] + weights[-1]
    elif probe == "MLP":
        found = apply_probe(fit_mlp(x.train, known[0], x.val, known[1], seed), x.test)
    else:
        found = apply_probe(fit_attention(x.train, known[0], x.val, known[1], seed), x.test)
    return found * std + mean


def linear_reading(x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
    """Weights ``[C + 1, K]`` of `ridge` for features and targets that are not standardised:
    ``y = x @ weights[:-1] + weights[-1]``."""
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    shift, scale = y.mean(0), y.std(0).clamp_min(1e-9)
    x, x_val = ((part - mean) / std for part in (x, x_val))
    y, y_val = ((part - shift) / scale for part in (y, y_val))
    found = ridge(x, y, x_val, y_val)
    slope = found[:-1] * scale / std[:, None]
    return torch.cat([slope, (found[-1] * scale + shift - mean @ slope)[None]])


def r2(predicted: Tensor, truth: Tensor) -> Tensor:
    """Coefficient of determination of each column; 0 is as good as the mean, 1 is perfect."""
    spread = (truth - truth.mean(0)).square().sum(0).clamp_min(1e-12)
    return 1 - (predicted - truth).square().sum(0) / spread


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
        self.block = ViTBlock(width, 3)
        self.norm = nn.LayerNorm(width)
        self.narrow = nn.Linear(width, 8)
        self.outward = nn.Sequential(
            nn.Linear(8 * num_tokens, 256), nn.GELU(), nn.Linear(256, targets)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = self.norm(self.block(self.inward(tokens.float()) + self.pos))
            return self.outward(self.narrow(x).flatten(1)).float()


def fit_attention(x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, seed: int) -> AttentionProbe:
    """An `AttentionProbe` of tokens x ``[n, P, D]``, trained by `_train`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AttentionProbe(x.shape[1], x.shape[2], y.shape[1])
    _train(model, x, y, x_val, y_val, seed, rate=2e-3, batch=128)
    return model


def fit_mlp(
    x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, seed: int, width: int = 256
) -> nn.Sequential:
    """An MLP with two hidden layers of features x ``[n, C]``, trained by `_train`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [x.shape[1], width, width]
        hidden = [(nn.Linear(a, b), nn.GELU()) for a, b in zip(sizes, sizes[1:], strict=False)]
        model = nn.Sequential(*sum(hidden, ()), nn.Linear(width, y.shape[1]))
    _train(model, x, y, x_val, y_val, seed, rate=1e-3, batch=256)
    return model


def _train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    x_val: Tensor,
    y_val: Tensor,
    seed: int,
    rate: float,
    batch: int,
) -> None:
    """AdamW until three lower learning rates, each from the best so far, bring no more."""
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    best, best_state, waited, cuts = float("inf"), copy.deepcopy(model.state_dict()), 0, 0
    for epoch in range(100):
        for index in torch.randperm(len(x), generator=g).split(batch):
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(model(x[index]), y[index]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        # In relative terms: what cannot be read must not hide that the rest is read ever better.
        errors = (apply_probe(model, x_val) - y_val).square().mean(0)
        error = float(errors.clamp_min(1e-12).log().mean())
        waited += 1
        if error < best - 0.01:
            best, best_state, waited = error, copy.deepcopy(model.state_dict()), 0
        elif waited >= 3 and epoch >= 12:  # angles start late, after a plateau
            cuts, waited = cuts + 1, 0
            if cuts > 2:
                break
            model.load_state_dict(best_state)
            for group in optimizer.param_groups:
                group["lr"] *= 0.3
    model.load_state_dict(best_state)


@torch.no_grad()
def apply_probe(model: nn.Module, x: Tensor) -> Tensor:
    """The output of a probe for many features, in batches."""
    return torch.cat([model(part) for part in x.split(512)])
