"""The world model: frozen patch tokens in, imagined latents out.

    tokens [B, N, C] --projector--> z [B, P, D] --predictor (actions, proprio)--> next z, proprio

The encoder's tokens are projected to few latents, so that imagining is cheap: planning cost is
proportional to the number of tokens. The projector (an MLP or points by attention, trained together
with the predictor; or principal components or small pictures, fitted before) suits what there is to
see, the predictor (a transformer, an MLP, or a local one) what there is to know. Beside what the
projector finds, a frame may have coordinates along the manifold of logged frames
(`worldmodel.manifold`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the world model.

    Attributes:
        tokens: latent tokens of one frame, P.
        dim: channels of one latent token, D.
        predictor: "transformer" (`Transformer`), "mlp" (`MLP`) or "local" (`Local`), which needs
            one latent token for each patch.
        actions: how the transformer is told of actions and proprio: "adaln", or "concat" to each
            token.
        width: of the predictor.
        depth: of the predictor, in blocks.
        heads: attention heads of the transformer.
        context: frames the predictor sees, K.
        frameskip: primitive actions per model step, F.
        projector: how tokens become latents: "mlp" (`Projector`), "points" (`Points`), or
            "components" (`Components`) or "picture" (`Picture`), which need one latent token for
            each patch.
        coordinates: how many of the channels of a latent token, its last ones, are coordinates
            along the manifold of frames (`worldmodel.manifold`), which no other latents have:
            needs 1 token.
    """

    tokens: int = 4
    dim: int = 32
    predictor: Literal["transformer", "mlp", "local"] = "transformer"
    actions: Literal["adaln", "concat"] = "adaln"
    width: int = 192
    depth: int = 4
    heads: int = 4
    context: int = 3
    frameskip: int = 5
    projector: Literal["mlp", "points", "components", "picture"] = "mlp"
    coordinates: int = 0

    def __post_init__(self) -> None:
        if self.coordinates and (self.tokens > 1 or not 0 < self.coordinates < self.dim):
            raise UserError(
                f"{self.coordinates} coordinates among the channels of {self.tokens} latent tokens "
                f"of dim {self.dim}: use 1 token, and a dim above the coordinates"
            )


@dataclass(frozen=True)
class DataSpec:
    """What the world model is fed: read off the dataset and the encoder, stored in checkpoints.

    Statistics are over all recorded frames, in the env's own units.
    """

    num_tokens: int
    token_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    proprio_mean: tuple[float, ...]
    proprio_std: tuple[float, ...]


class Imagined(NamedTuple):
    """Imagined future: ``z [..., T, P, D]`` and ``proprio [..., T, Dp]`` in the env's units."""

    z: Tensor
    proprio: Tensor


class Projector(nn.Module):
    """Patch tokens ``[B, N, C]`` to latents ``[B, P, D]``: each patch is narrowed by the same
    linear map, then all of them are mixed, so that a latent may depend on the whole image."""

    def __init__(self, spec: DataSpec, tokens: int, dim: int, narrow: int = 32, hidden: int = 1024):
        super().__init__()
        self.shape = (tokens, dim)
        self.narrow = nn.Linear(spec.token_dim, narrow)
        self.mix = nn.Sequential(
            nn.LayerNorm(spec.num_tokens * narrow),
            nn.Linear(spec.num_tokens * narrow, hidden),
            nn.GELU(approximate="tanh"),
            nn.Linear(hidden, hidden // 2),
            nn.GELU(approximate="tanh"),
            nn.Linear(hidden // 2, tokens * dim),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mix(self.narrow(tokens).flatten(-2)).unflatten(-1, self.shape).float()


class Points(nn.Module):
    """Patch tokens ``[B, N, C]`` of a square image to latents ``[B, P, D]``, which are the places
    of ``P * D / 2`` points: each looks at some patches, by attention, and says where in them it is
    (spatial softmax, Finn et al. 2016; keypoints, Jakab et al. 2018).

    When a thing moves, the points that look at it move along, so that its pose is nearly linear in
    the latents, and distances between latents are distances in the image.
    """

    SHARPNESS = 3.0  # of the attention at first
    REACH = 1.5  # how far from the centres of its patches a point can be, in patches
    SPREAD = 3.0  # latents per half of the image: makes their standard deviation about 1

    places: Tensor

    def __init__(self, spec: DataSpec, tokens: int, dim: int, hidden: int = 128):
        super().__init__()
        side, size = math.isqrt(spec.num_tokens), tokens * dim
        if side < 2 or side**2 != spec.num_tokens or size % 2:
            raise UserError(
                f"points need a square of patches and an even number of latents: there are "
                f"{spec.num_tokens} patches and {size} latents"
            )
        self.shape, self.points = (tokens, dim), size // 2
        self.reach = self.REACH * 2 / (side - 1)
        self.look = nn.Linear(spec.token_dim, hidden)
        self.say = nn.Linear(hidden, self.points * 3)
        self.register_buffer("places", patch_places(spec.num_tokens), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        said = self.say(F.gelu(self.look(tokens), approximate="tanh")).float()
        attention = (self.SHARPNESS * said[..., : self.points]).softmax(-2).unsqueeze(-1)
        offset = self.reach * said[..., self.points :].unflatten(-1, (self.points, 2)).tanh()
        points = (attention * (self.places.unsqueeze(1) + offset)).sum(-3)
        return self.SPREAD * points.flatten(-2).unflatten(-1, self.shape)


class Components(nn.Module):
    """Patch tokens ``[B, N, C]`` to their leading principal components ``[B, N, D]``.

    Distances between such latents are those between tokens, as far as D components keep them: the
    image is compared patch by patch.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, spec: DataSpec, tokens: int, dim: int):
        super().__init__()
        if tokens != spec.num_tokens or dim > spec.token_dim:
            raise UserError(
                f"{tokens} latent tokens of dim {dim} cannot be components of {spec.num_tokens} "
                f"patch tokens of {spec.token_dim}: use tokens {spec.num_tokens}"
            )
        self.register_buffer("mean", torch.zeros(spec.token_dim))
        self.register_buffer("basis", torch.zeros(spec.token_dim, dim))

    def fit(self, sample: Tensor, pixels: Tensor) -> None:
        """Find the components of the tokens ``[M, N, C]`` of some frames, without `pixels`."""
        del pixels
        self.mean.copy_(sample.mean((0, 1)))
        varies = sample - sample.mean(0)  # what does not, such as where a patch is, says nothing
        axes = principal_axes(varies.flatten(0, 1), self.basis.shape[1])
        self.basis.copy_(axes / (varies @ axes).std().clamp_min(1e-6))

    def forward(self, tokens: Tensor) -> Tensor:
        return ((tokens - self.mean) @ self.basis).float()


class Picture(Components):
    """Patch tokens ``[B, N, C]`` to a small picture of each patch ``[B, N, D]``, of n x n = D
    cells: what can be read linearly off the patch's token of the brightness there.

    What is scattered over the image has no places to name, but how far it has to be carried can be
    told: pictures are compared in the Sobolev norm H^-1, which for small changes is the distance of
    optimal transport (Peyre 2018).
    """

    waves: Tensor
    weight: Tensor

    def __init__(self, spec: DataSpec, tokens: int, dim: int):
        super().__init__(spec, tokens, dim)
        self.cells, self.patches = math.isqrt(dim), math.isqrt(tokens)
        if self.cells**2 != dim or self.patches**2 != tokens:
            raise UserError(
                f"a picture needs a square of patches and a square of cells in each: there are "
                f"{tokens} patches of {dim} channels"
            )
        side = self.cells * self.patches
        count = torch.arange(side)
        waves = torch.cos(math.pi / side * count[:, None] * (count + 0.5))
        waves /= waves.norm(dim=1, keepdim=True)
        self.register_buffer("waves", waves, persistent=False)
        weight = (1 + count[:, None] ** 2 + count**2) ** -0.5
        self.register_buffer("weight", weight)

    def fit(self, sample: Tensor, pixels: Tensor) -> None:
        """Find what tokens ``[M, N, C]`` of some frames say of their `pixels` ``[M, H, W, 3]``, by
        ridge regression."""
        bright = pixels.float().mean(-1).unsqueeze(1)
        shown = self.cut(F.adaptive_avg_pool2d(bright, len(self.waves))[:, 0])
        self.mean.copy_(sample.mean((0, 1)))
        given = (sample - self.mean).flatten(0, 1).double()
        gram = given.T @ given
        gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
        target = (shown - shown.mean(0)).flatten(0, 1).double()
        self.basis.copy_(torch.linalg.solve(gram, given.T @ target))
        z = self(sample)
        self.basis /= (z - z.mean(0)).std().clamp_min(1e-6)
        # As far apart as frames are in latents that vary by 1, so that near means the same.
        z = self(sample)
        apart = self.distance(z, z.roll(len(z) // 2, 0)).mean()
        self.weight *= (2 / apart.clamp_min(1e-12)).sqrt()

    def cut(self, picture: Tensor) -> Tensor:
        """A picture ``[..., side, side]`` as the cells of each patch ``[..., N, n * n]``."""
        grid = picture.unflatten(-1, (self.patches, -1)).unflatten(-3, (self.patches, -1))
        return grid.transpose(-3, -2).flatten(-2).flatten(-3, -2)

    def whole(self, z: Tensor) -> Tensor:
        """The reverse of `cut`."""
        grid = z.unflatten(-1, (self.cells, -1)).unflatten(-3, (self.patches, -1))
        return grid.transpose(-3, -2).flatten(-2).flatten(-3, -2)

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        """How far apart the pictures ``[..., N, D]`` are, squared ``[...]``."""
        apart = self.waves @ self.whole(z - other).float() @ self.waves.T
        return (self.weight * apart).square().sum((-2, -1))


class Coordinates(Projector):
    """Patch tokens ``[B, N, C]`` to coordinates along the manifold of frames ``[B, 1, D]``, which
    `worldmodel.manifold` teaches it. Until then, when `scale` is 0, they are 0."""

    SCALE = 3.0  # as strong as several points, because there are few of them

    scale: Tensor

    def __init__(self, spec: DataSpec, coordinates: int):
        super().__init__(spec, 1, coordinates)
        self.register_buffer("scale", torch.tensor(0.0))
        self.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scale * super().forward(tokens)


def principal_axes(vectors: Tensor, count: int) -> Tensor:
    """The directions ``[C, count]`` in which `vectors` ``[M, C]`` vary most, the last one most."""
    centred = vectors.double() - vectors.double().mean(0)
    return torch.linalg.eigh(centred.T @ centred)[1][:, -count:].float()


def patch_places(num_tokens: int) -> Tensor:
    """Centres ``[N, 2]`` of the patches of a square image whose outermost centres are at -1, 1."""
    line = torch.linspace(-1, 1, math.isqrt(num_tokens))
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)


class Block(nn.Module):
    """A transformer block, if `modulated` by a condition ``[B, W]`` (AdaLN)."""

    def __init__(self, width: int, heads: int, modulated: bool):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width) if modulated else None
        if self.modulation:
            # Small rather than zero: actions have a say from the first step (jepa-wms study, 2025).
            nn.init.normal_(self.modulation.weight, std=0.02)
            nn.init.zeros_(self.modulation.bias)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1 = scale1 = gate1 = shift2 = scale2 = gate2 = x.new_zeros(1)
        if self.modulation:
            parts = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
            shift1, scale1, gate1, shift2, scale2, gate2 = parts
        y = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(y).chunk(3, -1)
        )
        # Plain products: for so few tokens they beat PyTorch's fused attention on a CPU.
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
        y = (weights @ v).transpose(1, 2).flatten(-2)
        x = x + (1 + gate1) * self.out(y)
        y = self.norm2(x) * (1 + scale2) + shift2
        return x + (1 + gate2) * self.mlp(y)


class Transformer(nn.Module):
    """How latents change in a model step: a transformer over latent tokens, whose context frames
    are stacked in channels; actions and proprio enter through AdaLN (Peebles and Xie 2023), or
    beside each token (Zhou et al. 2025)."""

    def __init__(self, config: ModelConfig, numbers: int, proprio: int):
        """`numbers`: of actions and proprio in a context. `proprio`: of one frame."""
        super().__init__()
        k, p, d, w = config.context, config.tokens, config.dim, config.width
        adaln = config.actions == "adaln"
        self.embed = nn.Linear(k * d if adaln else k * d + numbers, w)
        self.positions = nn.Parameter(0.02 * torch.randn(p, w))
        self.condition = (
            nn.Sequential(nn.Linear(numbers, w), nn.SiLU(), nn.Linear(w, w), nn.SiLU())
            if adaln
            else None
        )
        self.blocks = nn.ModuleList(Block(w, config.heads, adaln) for _ in range(config.depth))
        self.norm = nn.LayerNorm(w)
        self.next_z = nn.Linear(w, d)
        self.next_proprio = nn.Linear(p * w, proprio)

    def forward(self, z: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """Latents ``[B, K, P, D]``, actions and proprio ``[B, numbers]`` to the change of latents
        ``[B, P, D]`` and of normalised proprio ``[B, Dp]``."""
        x, condition = z.transpose(1, 2).flatten(2), given
        if self.condition:
            condition = self.condition(given)
        else:
            x = torch.cat([x, given.unsqueeze(1).expand(-1, x.shape[1], -1)], -1)
        x = self.embed(x) + self.positions
        for block in self.blocks:
            x = block(x, condition)
        x = self.norm(x)
        return self.next_z(x), self.next_proprio(x.flatten(1))


class Residual(nn.Module):
    """A residual block of two linear maps, GELU (or ReLU, if `quick`) between them."""

    def __init__(self, width: int, quick: bool = False):
        super().__init__()
        last = nn.Linear(2 * width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        between = nn.ReLU() if quick else nn.GELU(approximate="tanh")
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), between, last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


class MLP(nn.Module):
    """How latents change in a model step: a residual MLP that is given everything side by side,
    which for few latents costs less than `Transformer`."""

    def __init__(self, config: ModelConfig, numbers: int, proprio: int):
        """`numbers`: of actions and proprio in a context. `proprio`: of one frame."""
        super().__init__()
        self.shape = (config.tokens, config.dim)
        size, w = config.tokens * config.dim, config.width
        self.blocks = nn.Sequential(
            nn.Linear(config.context * size + numbers, w),
            *(Residual(w) for _ in range(config.depth)),
        )
        self.norm = nn.LayerNorm(w)
        self.next_z = nn.Linear(w, size)
        self.next_proprio = nn.Linear(w, proprio)

    def forward(self, z: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """As `Transformer`."""
        x = self.norm(self.blocks(torch.cat([z.flatten(1), given], -1)))
        return self.next_z(x).unflatten(-1, self.shape), self.next_proprio(x)


class Local(nn.Module):
    """How latents change in a model step, for each patch from what lies around it: the same small
    MLP everywhere, so that what is seen to happen in one place is known for all of them. What
    actions and proprio mean for a patch depends on where it is."""

    REACH = 3  # patches to each side that have a say

    places: Tensor

    def __init__(self, config: ModelConfig, numbers: int, proprio: int):
        """`numbers`: of actions and proprio in a context. `proprio`: of one frame."""
        super().__init__()
        self.side = math.isqrt(config.tokens)
        if self.side < 2 or self.side**2 != config.tokens:
            raise UserError(f"{config.tokens} latent tokens are not a square of patches")
        channels, w = config.context * config.dim, config.width
        self.register_buffer("places", patch_places(config.tokens), persistent=False)
        self.around = nn.Conv2d(channels, w, 2 * self.REACH + 1, padding=self.REACH)
        # With so many patches, GELU would take half of the time.
        self.told = nn.Sequential(nn.Linear(numbers + 2, w), nn.ReLU(), nn.Linear(w, 2 * w))
        self.blocks = nn.Sequential(*(Residual(w, quick=True) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(w)
        self.next_z = nn.Linear(w, config.dim)
        self.next_proprio = nn.Linear(w, proprio)

    def forward(self, z: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """As `Transformer`."""
        image = z.transpose(2, 3).flatten(1, 2).unflatten(-1, (self.side, self.side))
        around = self.around(image).flatten(2).transpose(1, 2)  # [B, P, W]
        here = self.places.expand(len(z), -1, -1)
        given = given.unsqueeze(1).expand(-1, here.shape[1], -1)
        scale, shift = self.told(torch.cat([given, here], -1)).chunk(2, -1)
        x = self.norm(self.blocks(around * (1 + scale) + shift))
        return self.next_z(x), self.next_proprio(x.sum(1) / self.side)


class WorldModel(nn.Module):
    """Projector, predictor and the small heads that train them.

    Actions and proprio are given in the env's units and normalised inside.
    """

    action_low: Tensor
    action_high: Tensor
    proprio_mean: Tensor
    proprio_std: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__()
        self.config, self.spec = config, spec
        for name in ("action_low", "action_high", "proprio_mean", "proprio_std"):
            self.register_buffer(name, torch.tensor(getattr(spec, name)), persistent=False)
        p, d, w = config.tokens, config.dim, config.width
        proprio = len(spec.proprio_mean)
        numbers = config.context * (config.frameskip * len(spec.action_low) + proprio)
        kinds: dict[str, type[Projector] | type[Points] | type[Components]] = {
            "mlp": Projector,
            "points": Points,
            "components": Components,
            "picture": Picture,
        }
        self.projector = kinds[config.projector](spec, p, d - config.coordinates)
        self.coordinates = Coordinates(spec, config.coordinates) if config.coordinates else None
        predictors: dict[str, type[MLP] | type[Local] | type[Transformer]] = {
            "mlp": MLP,
            "local": Local,
            "transformer": Transformer,
        }
        self.predictor = predictors[config.predictor](config, numbers, proprio)
        # Reads proprio off the latents of one frame, so that a goal image says where the robot is.
        self.proprio_head = nn.Sequential(
            nn.Linear(p * d, w), nn.GELU(approximate="tanh"), nn.Linear(w, proprio)
        )
        # "Nothing moves", at first.
        for layer in (self.predictor.next_z, self.predictor.next_proprio):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def project(self, tokens: Tensor) -> Tensor:
        """Latents ``z [..., P, D]`` of the encoder's patch tokens ``[..., N, C]``."""
        z = self.projector(tokens)
        return z if self.coordinates is None else torch.cat([z, self.coordinates(tokens)], -1)

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        """Squared distance ``[...]`` of latents ``[..., P, D]``: the mean over all of them, or what
        the projector knows better."""
        if isinstance(self.projector, Picture):
            return self.projector.distance(z, other)
        return (z - other).square().mean((-2, -1))

    def read_proprio(self, z: Tensor) -> Tensor:
        """Proprio ``[..., Dp]``, env units, as seen in the latents ``z [..., P, D]``."""
        return self.proprio_head(z.flatten(-2)).float() * self.proprio_std + self.proprio_mean

    def predict(self, z: Tensor, proprio: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """One model step.

        Args:
            z: latents of the context frames, oldest first, ``[B, K, P, D]``.
            proprio: of the same frames, env units, ``[B, K, Dp]``.
            actions: taken at each context frame, the last one to be imagined, ``[B, K, F*A]``.

        Returns:
            Next latents ``[B, P, D]`` and next proprio ``[B, Dp]``.
        """
        low, high = (t.repeat(self.config.frameskip) for t in (self.action_low, self.action_high))
        action = (2 * actions - low - high) / (high - low)
        measured = (proprio - self.proprio_mean) / self.proprio_std
        given = torch.cat([action.flatten(1), measured.flatten(1)], -1)
        change, moved = self.predictor(z, given)
        return z[:, -1] + change.float(), proprio[:, -1] + moved.float() * self.proprio_std

    def rollout(self, z: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Imagined:
        """Imagine the future under candidate actions.

        Args:
            z: latents of the context frames, ``[E, K, P, D]``: encoded once, shared by all samples.
            proprio: of the same frames, ``[E, K, Dp]``.
            past: actions between the context frames, ``[E, K-1, F*A]``.
            actions: candidates, ``[E, S, T, F*A]``.

        Returns:
            ``z [E, S, T, P, D]`` and ``proprio [E, S, T, Dp]``.
        """
        episodes, samples, horizon = actions.shape[:3]
        k = self.config.context

        def tile(t: Tensor) -> Tensor:
            return t.unsqueeze(1).expand(-1, samples, *t.shape[1:]).flatten(0, 1)

        z, proprio = tile(z), tile(proprio)
        sequence = torch.cat([tile(past), actions.flatten(0, 1)], dim=1)
        imagined_z, imagined_proprio = [], []
        for t in range(horizon):
            next_z, next_proprio = self.predict(z, proprio, sequence[:, t : t + k])
            z = torch.cat([z[:, 1:], next_z.unsqueeze(1)], 1)
            proprio = torch.cat([proprio[:, 1:], next_proprio.unsqueeze(1)], 1)
            imagined_z.append(next_z)
            imagined_proprio.append(next_proprio)
        shape = (episodes, samples)
        return Imagined(
            torch.stack(imagined_z, 1).unflatten(0, shape),
            torch.stack(imagined_proprio, 1).unflatten(0, shape),
        )
