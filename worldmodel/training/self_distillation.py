"""Self-distillation of a ViT: networks, masks and loss terms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.encoders.vit import ViT, ViTConfig

SIGREG = 20.0  # weight of the Gaussian shape of embeddings against their agreement
EMBEDDING = 128  # numbers of the embeddings that VICReg and SIGReg compare


class PrototypeHead(nn.Module):
    """Tokens to prototype scores: an MLP, a normalised bottleneck, prototypes of unit length."""

    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 512)
        self.fc2 = nn.Linear(512, 128)
        self.prototypes = nn.Parameter(torch.randn(prototypes, 128))

    def forward(self, tokens: Tensor) -> Tensor:
        """Cosine of each token with each prototype, [..., dim] -> float32 [..., prototypes]."""
        hidden = self.fc2(F.gelu(self.fc1(tokens)))
        # In float32: bfloat16 is too coarse at a temperature of 0.04.
        with torch.autocast(tokens.device.type, enabled=False):
            return F.normalize(hidden.float(), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class DistillationNetwork(nn.Module):
    """A ViT with its heads; student and teacher are one each."""

    def __init__(self, vit: ViTConfig, prototypes: int) -> None:
        super().__init__()
        self.vit = ViT(vit)
        self.cls_head = PrototypeHead(vit.dim, prototypes)
        self.patch_head = PrototypeHead(vit.dim, prototypes)
        self.pixel_head = nn.Linear(vit.dim, 3 * vit.patch_size**2)
        self.projector = nn.Sequential(
            nn.Linear(vit.dim, 512), nn.BatchNorm1d(512), nn.GELU(), nn.Linear(512, EMBEDDING)
        )


def block_masks(
    count: int, grid: int, ratio: tuple[float, float], share: float, g: torch.Generator
) -> Tensor:
    """Random connected masks, bool [count, grid ** 2]; True is hidden.

    A mask is the highest cells of smooth noise: a region of any shape that has its ratio exactly.
    Ratios are evenly spaced and shuffled, so that the number of hidden patches is the same at every
    step; other shapes would make oneDNN compile new kernels each time.

    Args:
        count: number of masks.
        grid: patches per side.
        ratio: smallest and largest share of hidden patches.
        share: share of the masks that hide any.
        g: generator, on the CPU.
    """
    coarse = torch.rand(count, 1, 4, 4, generator=g)
    height = F.interpolate(coarse, (grid, grid), mode="bilinear").flatten(1)
    height = height + 0.05 * torch.rand(height.shape, generator=g)
    ratios = torch.zeros(count)
    masked = max(1, round(count * share))
    ratios[:masked] = torch.linspace(*ratio, masked)
    hidden = (ratios * grid**2).round()[torch.randperm(count, generator=g)]
    rank = height.argsort(dim=1, descending=True).argsort(dim=1)
    return rank < hidden.unsqueeze(1)


def sinkhorn(scores: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Sinkhorn-Knopp assignments [N, K]: rows sum to 1, and columns are used (nearly) equally
    (SwAV, Caron et al. 2020).

    The assignments are kept as two scaling vectors, so an iteration is two matrix-vector products.
    """
    q = ((scores - scores.max()) / temperature).exp()
    columns = torch.ones(q.shape[1], device=q.device)
    for _ in range(iterations):
        rows = 1.0 / (q @ columns).clamp_min(1e-30)
        columns = 1.0 / (q.T @ rows).clamp_min(1e-30)
    q = q * columns
    return q / q.sum(dim=1, keepdim=True)


def cross_entropy(targets: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Mean of -sum(targets * log softmax(scores / temperature)) over all but the last axis."""
    return -(targets * F.log_softmax(scores / temperature, dim=-1)).sum(-1).mean()


def entropy(p: Tensor) -> Tensor:
    """Entropy [...] of distributions [..., K], in nats."""
    return -(p * p.clamp_min(1e-12).log()).sum(-1)


def koleo(tokens: Tensor) -> Tensor:
    """Kozachenko-Leonenko loss of class tokens [B, D]: minus the mean log distance to the nearest
    neighbour."""
    unit = F.normalize(tokens.float(), dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2.0).argmax(dim=1)
    return -((unit - unit[nearest]).norm(dim=1) + 1e-4).log().mean()


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    """Variance-invariance-covariance regularisation of embeddings ``[N, D]`` of two views of the
    same things (Bardes et al. 2022), divided by 25."""
    a, b = a.float(), b.float()
    loss = F.mse_loss(a, b)
    for each in (a, b):
        centred = each - each.mean(0)
        spread = (centred.var(0) + 1e-4).sqrt()
        covariance = (centred.T @ centred / (len(each) - 1)).fill_diagonal_(0)
        loss = loss + F.relu(1 - spread).mean() / 2 + covariance.square().sum() / each.shape[1] / 25
    return loss


def sigreg(a: Tensor, b: Tensor, g: torch.Generator, slices: int = 256) -> Tensor:
    """Embeddings ``[N, D]`` of two views agree, and are distributed as a standard Gaussian (LeJEPA:
    Balestriero and LeCun 2025).

    Random one-dimensional projections are compared with the Gaussian by the statistic of Epps and
    Pulley, divided by N: the weighted squared error of the empirical characteristic function.
    """
    a, b = a.float(), b.float()
    axes = torch.randn(a.shape[1], slices, generator=g, device=g.device).to(a.device)
    axes = F.normalize(axes, dim=0)
    t = torch.linspace(0.2, 4, 17, device=a.device)
    gaussian = (-t.square() / 2).exp()
    loss = F.mse_loss(a, b)
    for each in (a, b):
        angles = (each @ axes).unsqueeze(-1) * t
        error = (angles.cos().mean(0) - gaussian).square() + angles.sin().mean(0).square()
        loss = loss + SIGREG * (error * gaussian).mean() / 2
    return loss
