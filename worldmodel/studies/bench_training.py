"""Training as a checkpoint had it, on random latents."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from worldmodel.encoders.encoder import Encoder
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.training.config import LossConfig, TrainConfig
from worldmodel.training.frames import TrainingFrames
from worldmodel.training.loop import Loop, LoopConfig
from worldmodel.training.trainer import WorldModelTrainer


def rehearse(
    info: CheckpointInfo, encoder: Encoder, device: torch.device
) -> tuple[WorldModelTrainer, Loop]:
    """The second phase of a checkpoint's training, on random latents; nothing is written."""
    c, spec, training = info.model, info.spec, info.training
    known = {field.name for field in fields(LossConfig)}
    loss = {name: value for name, value in training.get("loss", {}).items() if name in known}
    config = TrainConfig(
        data="",
        model=c,
        batch=training.get("batch", TrainConfig.batch),
        loss=LossConfig(**loss),
    )
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
    made_up = TrainingFrames([data], [latents], 1, c.frameskip, config.held_out, device)
    made_up.use_latents(torch.from_numpy)
    trainer = WorldModelTrainer(config, made_up, encoder, joint=0.0)
    trainer.model.representation.requires_grad_(False)
    loop = Loop(trainer, LoopConfig(Path(), config.steps, config.batch, config.optim.clip))
    return trainer, loop
