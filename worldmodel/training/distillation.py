"""Distillation (Hinton et al. 2015): a predictor learns the predictions of another checkpoint.

The student uses the teacher's latents, and may be much smaller.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from planners import one_hot
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo, load_checkpoint
from worldmodel.models.config import ModelConfig
from worldmodel.models.world_model import WorldModel

SHARED = ("encoder", "representation", "tokens", "dim", "context", "frameskip")


@dataclass(frozen=True)
class Teacher:
    """A checkpoint that is learnt from."""

    model: WorldModel
    info: CheckpointInfo

    def initialise(self, student: WorldModel) -> None:
        """Copy the representation, and the predictor's buffers, to a student."""
        student.representation.load_state_dict(self.model.representation.state_dict())
        buffers = dict(self.model.predictor.named_buffers())
        for name, buffer in student.predictor.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])

    @torch.no_grad()
    def relabel(
        self, z: Tensor, proprio: Tensor, actions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Clips whose frames after the context are the teacher's predictions.

        Half of the clips keep their recorded actions. The others get actions such as planners
        sample: one per model step, and small in some clips, large in others.

        Args:
            z: latents ``[B, J, P, D]``.
            proprio: ``[B, J, Dp]``.
            actions: ``[B, J-1, F*A]``.
            generator: of the sampled actions, on the CPU.

        Returns:
            Latents, proprioception and actions, as given.
        """
        c, (clips, steps) = self.model.config, actions.shape[:2]
        k = c.context
        low, high = self.model.action_low, self.model.action_high
        sampled = torch.rand(clips, steps, 1, len(low), generator=generator).to(z.device)
        scale = torch.rand(clips, 1, 1, 1, generator=generator).to(z.device)
        sampled = (scale * (low + (high - low) * sampled)).clamp(low, high)
        sampled = one_hot(sampled, self.info.choices)
        actions = actions.clone()
        actions[::2, k - 1 :] = sampled.repeat(1, 1, c.frameskip, 1).flatten(2)[::2, k - 1 :]
        future = self.model.rollout(
            z[:, :k], proprio[:, :k], actions[:, : k - 1], actions[:, None, k - 1 :]
        )
        return (
            torch.cat([z[:, :k], future.z[:, 0]], 1),
            torch.cat([proprio[:, :k], future.proprio[:, 0]], 1),
            actions,
        )


def load_teacher(
    name: str, student: ModelConfig, encoder_hash: str, device: torch.device
) -> Teacher:
    """The teacher of a student, whose frameskip may be 0: any.

    Raises:
        UserError: no such checkpoint, or one of other latents or model steps than the student's.
    """
    model, _, info = load_checkpoint(name)
    of_teacher = {**asdict(info.model), "encoder": info.encoder_hash}
    frameskip = student.frameskip or info.model.frameskip
    of_student = {**asdict(student), "encoder": encoder_hash, "frameskip": frameskip}
    for key in SHARED:
        if of_teacher[key] != of_student[key]:
            raise UserError(
                f"{key} is {of_student[key]!r}, but the teacher's is {of_teacher[key]!r}: "
                "a teacher must have the same latents and model steps"
            )
    return Teacher(model.to(device), info)
