"""The planar pose: position and heading of the object, position of the robot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.errors import UserError
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.layers import patch_centres
from worldmodel.models.planar_pose.sprites import SpriteDecoder
from worldmodel.models.registry import REPRESENTATIONS
from worldmodel.models.representations import Representation

if TYPE_CHECKING:
    from worldmodel.data.logs import Logs

DIM = 6
SCALE = 9.0  # latents per half image: a squared distance of 0.1 is then 2 cm in half a metre


class Pose(NamedTuple):
    """Poses read off a batch of frames.

    Attributes:
        position: of the object ``[B, 2]``, in half images from the centre.
        heading: of the object ``[B, 2]``, a unit vector.
        robot: position of the robot ``[B, 2]``.
        robot_patch: log-probability of each patch to contain the robot ``[B, N]``.
    """

    position: Tensor
    heading: Tensor
    robot: Tensor
    robot_patch: Tensor


@REPRESENTATIONS.register("planar_pose")
class PlanarPose(Representation):
    """Patch tokens ``[..., N, C]`` of a square image to latents ``[..., 1, 6]``: position and
    heading of the object, position of the robot.

    Attention over patches finds both positions; the heading is read off the attended features. The
    heading is scaled by the object's radius of gyration. So the squared distance of two poses is
    the mean squared distance between the parts of the object.
    """

    fixed = True
    centres: Tensor
    radius: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec, narrow: int = 64, width: int = 256):
        super().__init__(config, spec)
        self.side = math.isqrt(spec.num_tokens)
        if self.side < 2 or self.side**2 != spec.num_tokens:
            raise UserError(
                f"a planar pose needs a square number of patches, not {spec.num_tokens}"
            )
        centres = patch_centres(spec.num_tokens).flip(-1) * (1 - 1 / self.side)  # x, y
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("radius", torch.tensor(0.0))  # of gyration, half images; 0: not fitted
        self.embed = nn.Sequential(nn.LayerNorm(spec.token_dim), nn.Linear(spec.token_dim, narrow))
        self.conv = nn.Conv2d(narrow, width, 3, padding=1)
        self.mix = nn.Linear(width, width)
        self.wide_conv = nn.Conv2d(width, width, 3, padding=1, groups=8)
        self.wide_mix = nn.Linear(width, width)
        self.attention = nn.Linear(width, 2)  # to the object, to the robot
        self.offset = nn.Linear(width, 4)
        self.readout = nn.Sequential(
            nn.Linear(2 * width, width), nn.GELU(approximate="tanh"), nn.Linear(width, 6)
        )

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        if (config.tokens, config.dim) != (1, DIM):
            raise UserError(
                f"a planar pose is 1 latent token of dim {DIM}, not {config.tokens} of {config.dim}"
            )

    @property
    def fitted(self) -> bool:
        return bool(self.radius)

    def fit(self, logs: Logs) -> None:
        """Learn the pose by self-supervision: see `fitting`."""
        from worldmodel.models.planar_pose.fitting import fit_planar_pose

        fit_planar_pose(self, logs)

    def pose(self, tokens: Tensor) -> Pose:
        """The pose in frames, from their tokens ``[B, N, C]``."""

        def gelu(x: Tensor) -> Tensor:
            return F.gelu(x, approximate="tanh")

        def image(x: Tensor) -> Tensor:
            return x.transpose(1, 2).unflatten(-1, (self.side, self.side))

        def patches(x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)

        x = gelu(patches(self.conv(image(self.embed(tokens)))))
        x = x + gelu(self.mix(x))
        x = x + self.wide_mix(gelu(patches(self.wide_conv(image(x)))))
        log_attention = self.attention(x).float().log_softmax(1)  # [B, N, 2]
        attention = log_attention.exp()
        offset = self.offset(x).float().tanh().unflatten(-1, (2, 2)) / 4
        points = (attention.unsqueeze(-1) * (self.centres.unsqueeze(1) + offset)).sum(1)
        attended = (attention.transpose(1, 2).to(x.dtype) @ x).flatten(1)  # [B, 2 width]
        correction, heading = self.readout(attended).float().split([4, 2], -1)
        points = points + correction.tanh().unflatten(-1, (2, 2)) / 4
        heading = F.normalize(heading, dim=-1, eps=1e-3)
        return Pose(points[:, 0], heading, points[:, 1], log_attention[:, :, 1])

    def encode(self, tokens: Tensor) -> Tensor:
        pose = self.pose(tokens.flatten(0, -3))
        z = SCALE * torch.cat([pose.position, self.radius * pose.heading, pose.robot], -1)
        return z.unflatten(0, tokens.shape[:-2]).unsqueeze(-2)

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        """Squared distance of the object's poses; the robot's position counts in proprioception."""
        return (z - other)[..., :4].square().mean((-2, -1))

    def decoder(self, side: int) -> SpriteDecoder:
        return SpriteDecoder(side, SCALE)
