"""The world model: frozen patch tokens in, imagined latents out.

    tokens [B, N, C] --projector--> z [B, P, D] --predictor (actions, proprio)--> next z, proprio

The encoder's tokens are projected to few latents, so that imagining is cheap: planning cost is
proportional to the number of tokens. The projector (an MLP trained together with the predictor; or
a pose, principal components or small pictures, found before) suits what there is to see, the
predictor (a transformer, an MLP, one that takes the view of what is moved, or a local one) what
there is to know.
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
        predictor: "transformer" (`Transformer`), "mlp" (`MLP`), "relative" (`Relative`), which
            needs a pose, or "local" (`Local`), which needs one latent token for each patch.
        actions: how the transformer is told of actions and proprio: "adaln", or "concat" to each
            token.
        width: of the predictor.
        depth: of the predictor, in blocks.
        heads: attention heads of the transformer.
        context: frames the predictor sees, K.
        frameskip: primitive actions per model step, F.
        projector: how tokens become latents: "mlp" (`Projector`), "pose" (`Pose`), which has one
            latent token of dim 6, or "components" (`Components`) or "picture" (`Picture`), which
            need one latent token for each patch.
        activation: of the predictors "mlp" and "relative". On a CPU, ReLU is much the faster.
    """

    tokens: int = 4
    dim: int = 32
    predictor: Literal["transformer", "mlp", "relative", "local"] = "transformer"
    actions: Literal["adaln", "concat"] = "adaln"
    width: int = 192
    depth: int = 4
    heads: int = 4
    context: int = 3
    frameskip: int = 5
    projector: Literal["mlp", "pose", "components", "picture"] = "mlp"
    activation: Literal["gelu", "relu"] = "gelu"

    def __post_init__(self) -> None:
        if self.projector == "pose" and (self.tokens, self.dim) != (1, Pose.DIM):
            raise UserError(
                f"a pose is 1 latent token of dim {Pose.DIM}, not {self.tokens} of {self.dim}"
            )
        if self.predictor == "relative" and self.projector != "pose":
            raise UserError(
                f"the predictor 'relative' needs the projector 'pose', not {self.projector!r}"
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


class Pose(nn.Module):
    """Patch tokens ``[B, N, C]`` of a square image to latents ``[B, 1, 6]``: the place of the one
    thing that the robot moves, how it is turned, and the place of the robot. `worldmodel.pose`
    teaches it.

    Place and robot are found by attention to patches, from what is in and around them; how the
    thing is turned is read off what is there. The turn is a vector as long as the thing's radius of
    gyration: so the squared distance between two poses is that between the parts of the thing,
    on average.
    """

    DIM = 6
    SPREAD = 9.0  # latents per half of the image: then 2 cm in half a metre are near (AgentConfig)

    places: Tensor
    radius: Tensor

    def __init__(self, spec: DataSpec, narrow: int = 64, width: int = 256):
        super().__init__()
        self.side = math.isqrt(spec.num_tokens)
        if self.side < 2 or self.side**2 != spec.num_tokens:
            raise UserError(f"a pose needs a square of patches: there are {spec.num_tokens}")
        places = patch_places(spec.num_tokens).flip(-1) * (1 - 1 / self.side)  # x, y
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("radius", torch.tensor(0.0))  # in half images; 0 until it was taught
        self.narrow = nn.Sequential(nn.LayerNorm(spec.token_dim), nn.Linear(spec.token_dim, narrow))
        self.around = nn.Conv2d(narrow, width, 3, padding=1)
        self.mix = nn.Linear(width, width)
        self.farther = nn.Conv2d(width, width, 3, padding=1, groups=8)
        self.last = nn.Linear(width, width)
        self.attend = nn.Linear(width, 2)  # to the thing, to the robot
        self.offset = nn.Linear(width, 4)
        self.read = nn.Sequential(
            nn.Linear(2 * width, width), nn.GELU(approximate="tanh"), nn.Linear(width, 6)
        )

    def see(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Place of the thing and, as a unit vector, its turn, and place of the robot, ``[B, 2]``
        each: x to the right, y down, in half images from the middle. And in which patch the robot
        was looked for: logarithms of shares, ``[B, N]``."""

        def gelu(x: Tensor) -> Tensor:
            return F.gelu(x, approximate="tanh")

        def image(x: Tensor) -> Tensor:
            return x.transpose(1, 2).unflatten(-1, (self.side, self.side))

        def patches(x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)

        x = gelu(patches(self.around(image(self.narrow(tokens)))))
        x = x + gelu(self.mix(x))
        x = x + self.last(gelu(patches(self.farther(image(x)))))
        looked = self.attend(x).float().log_softmax(1)  # [B, N, 2]
        attention = looked.exp()
        offset = self.offset(x).float().tanh().unflatten(-1, (2, 2)) / 4
        points = (attention.unsqueeze(-1) * (self.places.unsqueeze(1) + offset)).sum(1)
        there = (attention.transpose(1, 2).to(x.dtype) @ x).flatten(1)  # [B, 2 width]
        nudge, turn = self.read(there).float().split([4, 2], -1)
        points = points + nudge.tanh().unflatten(-1, (2, 2)) / 4
        turn = F.normalize(turn, dim=-1, eps=1e-3)
        return points[:, 0], turn, points[:, 1], looked[:, :, 1]

    def forward(self, tokens: Tensor) -> Tensor:
        place, turn, robot, _ = self.see(tokens.flatten(0, -3))
        z = self.SPREAD * torch.cat([place, self.radius * turn, robot], -1)
        return z.unflatten(0, tokens.shape[:-2]).unsqueeze(-2)


def turned(points: Tensor, spun: Tensor) -> Tensor:
    """Points ``[..., 2]``, turned as the unit vectors `spun` ``[..., 2]`` are from the x axis."""
    (x, y), (cos, sin) = points.unbind(-1), spun.unbind(-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos], -1)


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
            *(Residual(w, config.activation == "relu") for _ in range(config.depth)),
        )
        self.norm = nn.LayerNorm(w)
        self.next_z = nn.Linear(w, size)
        self.next_proprio = nn.Linear(w, proprio)

    def forward(self, z: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """As `Transformer`."""
        x = self.norm(self.blocks(torch.cat([z.flatten(1), given], -1)))
        return self.next_z(x).unflatten(-1, self.shape), self.next_proprio(x)


class Relative(MLP):
    """`MLP` for latents that are a `Pose`: it is also told where the robot is and goes as seen from
    the thing, and says how the thing moves as seen from itself. So what is seen to happen in one
    pose is known for all of them, up to the walls."""

    steering: Tensor
    robot: Tensor
    middle: Tensor
    mirror: Tensor

    def __init__(self, config: ModelConfig, numbers: int, proprio: int):
        """As `MLP`."""
        self.frames = (config.context, config.frameskip)
        size = (numbers // config.context - proprio) // config.frameskip  # of an action
        super().__init__(config, numbers + 2 * config.context * (1 + config.frameskip), proprio)
        self.next_z = nn.Linear(config.width, 5)  # the thing's x, y and angle, the robot's x, y
        self.register_buffer("steering", torch.zeros(size, 2))
        self.register_buffer("robot", torch.zeros(proprio, 2))
        self.register_buffer("middle", torch.zeros(2))
        self.register_buffer("mirror", torch.tensor([1.0, -1.0]), persistent=False)

    def orient(self, told: Tensor, actions: Tensor, changes: Tensor) -> None:
        """Learn where in the image the robot is and where actions lead.

        Args:
            told: ``[Dp + 1, 2]``, how normalised proprio tells the robot's place in half images;
                the last row is where it is when all of it is 0.
            actions: of environment steps, normalised, ``[M, A]``.
            changes: of normalised proprio in these steps ``[M, Dp]``.
        """
        self.robot.copy_(Pose.SPREAD * told[:-1])
        self.middle.copy_(Pose.SPREAD * told[-1])
        moves = changes.double() @ self.robot.cpu().double()
        found = torch.linalg.lstsq(actions.double(), moves).solution
        self.steering.copy_(found / torch.linalg.matrix_norm(found, 2).clamp_min(1e-9))

    def forward(self, z: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """As `Transformer`."""
        place, turn, _ = z[:, :, 0].split(2, -1)  # [B, K, 2]
        facing = F.normalize(turn, dim=-1, eps=1e-3)
        back = (facing * self.mirror).unsqueeze(2)
        acted = math.prod(self.frames) * len(self.steering)
        going = given[:, :acted].unflatten(-1, (*self.frames, -1)) @ self.steering  # [B, K, F, 2]
        robot = given[:, acted:].unflatten(-1, (self.frames[0], -1)) @ self.robot + self.middle
        apart = (robot - place).unsqueeze(2)
        apart, going = turned(torch.cat([apart, going], 2), back).split([1, self.frames[1]], 2)
        told = [z.flatten(1) / 2, apart.flatten(1) / 2, going.flatten(1), given]  # of about 1
        x = self.norm(self.blocks(torch.cat(told, -1)))
        shift, angle, moved = self.next_z(x).float().split([2, 1, 2], -1)
        spun = torch.cat([angle.cos(), angle.sin()], -1)
        change = [turned(shift, facing[:, -1]), turned(turn[:, -1], spun) - turn[:, -1], moved]
        return torch.cat(change, -1).unsqueeze(1), self.next_proprio(x)


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
        here = self.places.expand(z.shape[0], -1, -1)
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
        kinds: dict[str, type[Projector] | type[Components]] = {
            "mlp": Projector,
            "components": Components,
            "picture": Picture,
        }
        self.projector = (
            Pose(spec) if config.projector == "pose" else kinds[config.projector](spec, p, d)
        )
        predictors: dict[str, type[MLP] | type[Local] | type[Transformer]] = {
            "mlp": MLP,
            "relative": Relative,
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
        z: Tensor = self.projector(tokens)
        return z

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        """Squared distance ``[...]`` of latents ``[..., P, D]``: the mean over all of them, or what
        the projector knows better. In a pose the robot's place does not count: proprio does."""
        if isinstance(self.projector, Picture):
            return self.projector.distance(z, other)
        counts = slice(4 if isinstance(self.projector, Pose) else None)
        return (z - other)[..., counts].square().mean((-2, -1))

    def read_proprio(self, z: Tensor) -> Tensor:
        """Proprio ``[..., Dp]``, env units, as seen in the latents ``z [..., P, D]``."""
        return self.proprio_head(z.flatten(-2)).float() * self.proprio_std + self.proprio_mean

    def normalised_actions(self, actions: Tensor) -> Tensor:
        """Actions of one or several steps ``[..., n*A]``, the bounds at -1 and 1."""
        times = actions.shape[-1] // len(self.action_low)
        low, high = self.action_low.repeat(times), self.action_high.repeat(times)
        return (2 * actions - low - high) / (high - low)

    def predict(self, z: Tensor, proprio: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """One model step.

        Args:
            z: latents of the context frames, oldest first, ``[B, K, P, D]``.
            proprio: of the same frames, env units, ``[B, K, Dp]``.
            actions: taken at each context frame, the last one to be imagined, ``[B, K, F*A]``.

        Returns:
            Next latents ``[B, P, D]`` and next proprio ``[B, Dp]``.
        """
        return self._predict(z, proprio, self.normalised_actions(actions))

    def _predict(self, z: Tensor, proprio: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """`predict`, of actions that are normalised."""
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
        sequence = self.normalised_actions(torch.cat([tile(past), actions.flatten(0, 1)], dim=1))
        imagined_z, imagined_proprio = [], []
        for t in range(horizon):
            next_z, next_proprio = self._predict(z, proprio, sequence[:, t : t + k])
            z = torch.cat([z[:, 1:], next_z.unsqueeze(1)], 1)
            proprio = torch.cat([proprio[:, 1:], next_proprio.unsqueeze(1)], 1)
            imagined_z.append(next_z)
            imagined_proprio.append(next_proprio)
        shape = (episodes, samples)
        return Imagined(
            torch.stack(imagined_z, 1).unflatten(0, shape),
            torch.stack(imagined_proprio, 1).unflatten(0, shape),
        )
