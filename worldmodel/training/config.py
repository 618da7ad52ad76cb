"""Settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from worldmodel.errors import UserError
from worldmodel.models.config import ModelConfig
from worldmodel.models.registry import REPRESENTATIONS
from worldmodel.training.metrics import check_tensorboard


@dataclass(frozen=True)
class OptimConfig:
    """Muon (Jordan et al. 2024) for the predictor's matrices, AdamW for all other parameters.

    Attributes:
        lr: peak learning rate of both optimisers (Muon's updates are scaled to the size of
            AdamW's). It falls to zero along a cosine.
        weight_decay: of matrices.
        clip: largest gradient norm.
        ema: decay of the averaged weights, which are the ones that are saved.
        warmup: steps in which the learning rate rises.
    """

    lr: float = 1.5e-3
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.998
    warmup: int = 200


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; the prediction error of latents has weight 1.

    Attributes:
        rollout: model steps predicted in training.
        distance: prediction error of latents in the model's own distance, which is what planners
            minimise.
        contrast: temporal contrast, which makes latent distances grow with time.
        forward: prediction error of a small forward model, which makes latents predictable.
        proprio: prediction error of proprioception.
        read_proprio: log error of proprioception read off one frame's latents, which keeps the
            robot's place precise; once latents are fixed, only a head learns from it, with weight
            0.02.
        reconstruct: error of the encoder's tokens, reconstructed from the latents.
        inverse: error of the actions, inferred from the latents before and after them.
    """

    rollout: int = 3
    distance: float = 1.0
    contrast: float = 1.0
    forward: float = 2.0
    proprio: float = 0.5
    read_proprio: float = 1.0
    reconstruct: float = 5.0
    inverse: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        data: dataset folders, separated by commas; see ``worldmodel.collect``.
        dynamics_data: further folders, which only the predictor learns from, once the latents are
            fixed. Their tokens need not fit in memory.
        teacher: a checkpoint whose latents are used and whose predictions are learnt, or None.
        encoder: name of the frozen encoder.
        encoder_weights: a local weights file or folder for it; the checkpoint gets a copy.
        out: folder for the checkpoint, metrics and training state.
        cache: folder for cached tokens.
        steps: optimiser steps.
        minutes: wall-clock budget that replaces `steps`, or None. It includes computing the reduced
            tokens and the latents of all frames, but not encoding.
        joint: share of the steps that train the representation; the others train the predictor. A
            representation that is fitted beforehand is fixed from the first step.
        pose_steps: optimiser steps that fit a planar pose beforehand.
        batch: clips per step.
        clip: frames of a clip while the representation is trained.
        clips: clips per step while the representation is trained.
        noise: standard deviation of the noise that is added to reduced tokens while the
            representation is trained. Reduced tokens have a standard deviation of about 1.
        masked: share of patches that are hidden while the representation is trained.
        displaced: largest error of the latents that the predictor starts from in training, as a
            multiple of a change in one model step.
        looks: number of frames that are also encoded with other colours, background and light, and
            from a slightly shifted camera. The representation learns to ignore such looks.
        horizon: default planning horizon in model steps, stored in the checkpoint.
        samples: default candidates per planning iteration, stored likewise.
        iterations: default planning iterations, stored likewise.
        hold: hold action of datasets that declare none: zero, repeat, or numbers such as 0,0.1.
        held_out: share of episodes for validation.
        seed: of initialisation and sampling.
        device: auto, cpu, cuda or mps.
        resume: continue from the training state in `out`.
        tensorboard: write metrics for TensorBoard, too, to OUT/tensorboard; with a teacher that has
            a decoder, also pictures of what the model imagines.
        log_every: steps between lines of metrics.
        validate_every: steps between validations.
        save_every: steps between training states.
        model: sizes.
        optim: optimiser.
        loss: weights of the loss terms.
    """

    data: str
    dynamics_data: str = ""
    teacher: str | None = None
    encoder: str = "ibot-112"
    encoder_weights: str | None = None
    out: str = "runs/train"
    cache: str = "data/latents"
    steps: int = 9000
    minutes: float | None = None
    joint: float = 0.65
    pose_steps: int = 4000
    batch: int = 512
    clip: int = 4
    clips: int = 192
    noise: float = 0.2
    masked: float = 0.1
    displaced: float = 0.7
    looks: int = 120_000
    horizon: int = 5
    samples: int = 128
    iterations: int = 12
    hold: str = ""
    held_out: float = 0.05
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    tensorboard: bool = False
    log_every: int = 50
    validate_every: int = 500
    save_every: int = 500
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        check_tensorboard(self.tensorboard)
        least = {"steps": 1, "batch": 2, "clips": 1, "horizon": 1, "log_every": 1}
        least |= {"validate_every": 1, "save_every": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least {minimum}")
        if self.looks < 0:
            raise UserError(f"looks is {self.looks}: it must be at least 0")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UserError(f"minutes is {self.minutes}: it must be a number above 0")
        if not 0 <= self.displaced < math.inf:
            raise UserError(f"displaced is {self.displaced}: it must be at least 0 and finite")
        if not (0 <= self.noise < math.inf and 0 <= self.masked < 1):
            raise UserError(
                f"noise is {self.noise} and masked is {self.masked}: noise must be at least 0, "
                "masked at least 0 and below 1"
            )
        if self.loss.rollout < 1:
            raise UserError(f"loss.rollout is {self.loss.rollout}: it must be at least 1")
        if self.learns_latents and self.clip <= self.loss.rollout:
            raise UserError(
                f"clip is {self.clip}: it must be above loss.rollout, {self.loss.rollout}"
            )
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out is {self.held_out}: it must lie between 0 and 1")
        if not 0 < self.joint <= 1:
            raise UserError(f"joint is {self.joint}: it must be above 0 and at most 1")

    @property
    def learns_latents(self) -> bool:
        """Whether the run trains a representation: not a teacher's, and not one that is fixed."""
        return self.teacher is None and not REPRESENTATIONS[self.model.representation].fixed
