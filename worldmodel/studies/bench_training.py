"""Training as a checkpoint had it, on random latents."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.world_model import WorldModel
from worldmodel.training.trainer import LossConfig, TrainConfig, Trainer


class Rehearsal(Trainer):
    """The training that a checkpoint had, on made-up latents, once these are fixed."""

    def __init__(self, info: CheckpointInfo):
        c, spec, training = info.model, info.spec, info.training
        self.config = TrainConfig(
            model=c,
            batch=training.get("batch", TrainConfig.batch),
            loss=LossConfig(**training.get("loss", {})),
        )
        self.device, self.spec = torch.device("cpu"), spec
        episodes, steps = 100, 100
        frames = episodes * (steps + 1)
        rng = np.random.default_rng(0)
        data: Any = SimpleNamespace(
            episodes=episodes,
            offsets=np.arange(episodes) * (steps + 1),
            lengths=np.full(episodes, steps),
            proprio=spec.proprio_mean + rng.standard_normal((frames, 1)) * spec.proprio_std,
            action_low=np.array(spec.action_low, np.float32),
            action_high=np.array(spec.action_high, np.float32),
            hold=None,
            actions=rng.uniform(spec.action_low, spec.action_high, (frames, len(spec.action_low))),
        )
        latents = rng.standard_normal((frames, c.tokens, c.dim)).astype(np.float16)
        self._sample_from([data], [latents])
        torch.manual_seed(0)
        self.model = WorldModel(c, spec)
        self.model.representation.requires_grad_(False)
        self.heads = self.teacher = self.taught = None
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = self._optimizers()
        self.fixed, self.step, self.minutes = True, 0, 0.0
