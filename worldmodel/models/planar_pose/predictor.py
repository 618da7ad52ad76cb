"""A predictor in the frame of the object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.errors import UserError
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.planar_pose.geometry import rotate
from worldmodel.models.planar_pose.representation import SCALE
from worldmodel.models.planar_pose.robot import robot_map
from worldmodel.models.predictors import MLPPredictor
from worldmodel.models.registry import PREDICTORS

if TYPE_CHECKING:
    from worldmodel.data.logs import Logs


@PREDICTORS.register("relative")
class RelativePredictor(MLPPredictor):
    """`MLPPredictor` for planar poses, with two changes. It also receives the robot's position and
    motion in the object's frame, and it predicts the object's motion in that frame. So dynamics
    learnt in one pose apply in all of them, up to the walls."""

    action_to_motion: Tensor
    proprio_to_position: Tensor
    position_offset: Tensor
    mirror: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__(config, spec, extra=2 * config.context * (1 + config.frameskip))
        self.next_z = nn.Linear(config.width, 5)  # object: x, y, angle; robot: x, y
        self.register_buffer("action_to_motion", torch.zeros(self.action_dim, 2))
        self.register_buffer("proprio_to_position", torch.zeros(self.proprio_dim, 2))
        self.register_buffer("position_offset", torch.zeros(2))
        self.register_buffer("mirror", torch.tensor([1.0, -1.0]), persistent=False)

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        if config.representation != "planar_pose":
            raise UserError(
                "the predictor 'relative' needs the representation 'planar_pose', not "
                f"{config.representation!r}"
            )

    @property
    def fitted(self) -> bool:
        return bool(self.action_to_motion.any())

    def fit(self, logs: Logs) -> None:
        """Fit linear maps from proprioception to the robot's position, and from actions to its
        motion."""
        pairs = [(proprio, *logs.actions_of(i)) for i, proprio in enumerate(logs.proprio)]
        changes = np.concatenate([proprio[at + 1] - proprio[at] for proprio, at, _ in pairs])
        actions = torch.cat([actions for _, _, actions in pairs])
        self.fit_maps(torch.from_numpy(robot_map(logs)), actions, torch.from_numpy(changes))

    def fit_maps(self, robot: Tensor, actions: Tensor, changes: Tensor) -> None:
        """Set the maps.

        Args:
            robot: the robot's position in half images as an affine map of normalised
                proprioception, ``[Dp + 1, 2]``; the last row is the offset.
            actions: of environment steps, normalised, ``[M, A]``.
            changes: of normalised proprioception in these steps ``[M, Dp]``.
        """
        self.proprio_to_position.copy_(SCALE * robot[:-1])
        self.position_offset.copy_(SCALE * robot[-1])
        motions = changes.double() @ self.proprio_to_position.cpu().double()
        found = torch.linalg.lstsq(actions.double(), motions).solution
        norm = torch.linalg.matrix_norm(found, 2).clamp_min(1e-9)
        self.action_to_motion.copy_(found / norm)

    def forward(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        k, frameskip = self.config.context, self.config.frameskip
        position, scaled_heading, _ = z[:, :, 0].split(2, -1)  # [B, K, 2]
        heading = F.normalize(scaled_heading, dim=-1, eps=1e-3)
        to_object_frame = (heading * self.mirror).unsqueeze(2)
        actions = condition[:, : k * frameskip * self.action_dim].unflatten(-1, (k, frameskip, -1))
        proprio = condition[:, k * frameskip * self.action_dim :].unflatten(-1, (k, -1))
        motion = actions @ self.action_to_motion  # [B, K, F, 2]
        robot = proprio @ self.proprio_to_position + self.position_offset
        offset = (robot - position).unsqueeze(2)
        offset, motion = rotate(torch.cat([offset, motion], 2), to_object_frame).split(
            [1, frameskip], 2
        )
        inputs = [z.flatten(1) / 2, offset.flatten(1) / 2, motion.flatten(1), condition]  # about 1
        x = self.norm(self.blocks(torch.cat(inputs, -1)))
        shift, angle, robot_change = self.next_z(x).float().split([2, 1, 2], -1)
        rotation = torch.cat([angle.cos(), angle.sin()], -1)
        last = scaled_heading[:, -1]
        change = [rotate(shift, heading[:, -1]), rotate(last, rotation) - last, robot_change]
        return torch.cat(change, -1).unsqueeze(1), self.next_proprio(x)
