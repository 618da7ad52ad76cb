"""A tiny untrained checkpoint of the real kind, for tests that need one and not its skill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from worldmodel.encoders.encoder import load_encoder
from worldmodel.models.checkpoint import CheckpointInfo, keep_encoder, save_checkpoint
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.world_model import WorldModel

CONFIG = ModelConfig(2, 8, "transformer", width=32, depth=1, heads=2, context=3, frameskip=5)


def tiny_checkpoint(
    folder: Path,
    env_id: str = "worldmodel/PushT-v0",
    weights: Path | None = None,
    **env_kwargs: Any,
) -> Path:
    """Write the checkpoint to `folder`, which is returned. `weights`: of its encoder, as
    pretraining exports them; it is random-112 without."""
    encoder = load_encoder("dino-112" if weights else "random-112", weights)
    env: Any = gym.make(env_id, **env_kwargs)
    low, high = (tuple(bound.tolist()) for bound in (env.action_space.low, env.action_space.high))
    width = env.observation_space["proprio"].shape[0]
    names = env.unwrapped.proprio_names
    env.close()
    spec = DataSpec(encoder.num_tokens, encoder.dim, low, high, (0.2,) * width, (0.1,) * width)
    torch.manual_seed(0)
    model = WorldModel(CONFIG, spec)
    torch.nn.init.normal_(model.representation.basis, std=0.1)  # zero where it is not fitted
    # Zero at first: then nothing would move.
    for layer in (model.predictor.next_z, model.predictor.next_proprio):
        torch.nn.init.normal_(layer.weight, std=0.1)
    info = CheckpointInfo(
        env_id,
        env_kwargs,
        112,
        encoder.name,
        encoder.hash,
        CONFIG,
        spec,
        tuple(0.0 if name.endswith(("vx", "vy")) else 1.0 for name in names),  # no velocities
        horizon=3,
        hold=(0.0,) * len(low),
        proprio_names=names,
    )
    save_checkpoint(folder, model, info)
    if weights:
        keep_encoder(folder, weights)
    return folder
