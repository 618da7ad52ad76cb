"""Train a world model on logged episodes, with the encoder frozen.

    python -m worldmodel.train --config configs/pusht.yaml [--optim.lr 3e-4 ...]

Tokens of every frame are computed once and memory-mapped. A step draws random clips and predicts
the next frames from real ones (teacher forcing) and from its own predictions (rollout). First
representation and predictor are trained together, the latents kept informative by reconstruction of
the frozen tokens, an inverse model and the variance and covariance terms of VICReg (Bardes et al.
2022). Then the latents stay as they are, are computed once for every frame, and the predictor alone
is trained on: its targets hold still, and a step costs less. Poses, components and pictures are
found before the first step. With a `teacher`, the latents are that checkpoint's, and the predictor,
which may be much smaller, learns to imagine what the teacher's does, under logged actions and under
such as planners try (Hinton et al. 2015). `OUT/metrics.jsonl` has one line per `log_every`
steps, with only predict, proprio and read_proprio once the latents are fixed:

    step, minutes, samples_per_s   where the run is and how fast
    loss                           what is minimised
    predict                        squared error of imagined latents / spread, mean over depths
    proprio                        squared error of imagined proprio, in units of its variance
    read_proprio                   the same for proprio read off the latents of one frame
    reconstruct                    unexplained variance of the encoder's tokens
    inverse                        unexplained variance of the actions, read off two frames' latents
    variance, covariance           VICReg's terms
    grad_norm, lr

and one line per `validate_every` steps on held-out episodes, where depth is 1, 2, ... model steps:

    val_error                      squared error of imagined latents / spread of the true ones
    val_copy                       the same for a model that copies the last frame it saw
    val_proprio                    squared error of imagined proprio / its variance
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.cli import Progress, parse_config, progress, run
from worldmodel.data.cache import LatentCache
from worldmodel.data.clips import Clips, ClipSampler, gather
from worldmodel.data.dataset import Dataset, open_dataset
from worldmodel.data.logs import Logs
from worldmodel.encoders.encoder import load_encoder
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import (
    CheckpointInfo,
    keep_encoder,
    load_checkpoint,
    save_checkpoint,
)
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.principal_components import principal_axes
from worldmodel.models.registry import REPRESENTATIONS
from worldmodel.models.world_model import WorldModel, near_distance


@dataclass(frozen=True)
class OptimConfig:
    """Muon (Jordan et al. 2024) for the predictor's matrices, AdamW for everything else.

    Attributes:
        lr: peak learning rate, reached after `warmup` steps; falls to zero along a cosine. Muon's
            updates are scaled to AdamW's size, so one rate serves both.
        weight_decay: on matrices.
        clip: largest gradient norm.
        ema: decay of the averaged weights that are saved.
        warmup: steps.
    """

    lr: float = 5e-4
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.998
    warmup: int = 200


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms.

    Attributes:
        rollout: model steps imagined in training.
        proprio: imagined proprio.
        read_proprio: proprio read off one frame's latents.
        reconstruct: the encoder's tokens, from the latents.
        inverse: the actions between two frames, from their latents.
        variance: VICReg's variance term, which keeps every latent's spread at 1.
        covariance: VICReg's covariance term, which keeps latents from repeating each other.
        predictable: share of the gradient of what is imagined that reaches the projector. Much of
            it makes latents smooth, and forget what is hard to foresee.
    """

    rollout: int = 2
    proprio: float = 0.5
    read_proprio: float = 0.5
    reconstruct: float = 1.0
    inverse: float = 0.2
    variance: float = 1.0
    covariance: float = 0.1
    predictable: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        data: dataset folders written by ``worldmodel.collect``, separated by commas.
        dynamics_data: further folders, which only the predictor learns from, once the latents are
            fixed. Their tokens need not fit in memory.
        teacher: a checkpoint whose latents are kept and whose predictor is imitated, or None.
        encoder: name of the frozen encoder.
        encoder_weights: a local weights file or folder for it; the checkpoint keeps a copy.
        out: folder for the checkpoint, metrics and training state.
        cache: folder for cached latents.
        steps: optimiser steps.
        joint: share of the steps that train the latents too; after that they are fixed. Poses,
            components and pictures are fixed from the beginning.
        pose_steps: optimiser steps that teach a pose, before these.
        batch: clips per step.
        horizon: model steps that planners imagine by default; stored in the checkpoint.
        samples: candidates per iteration by default of planners that sample; stored likewise.
        iterations: of planners that sample, by default; stored likewise.
        held_out: share of episodes kept for validation.
        seed: of initialisation and sampling.
        resume: continue from the training state in `out`.
        log_every: steps between lines of metrics.
        validate_every: steps between validations.
        save_every: steps between training states.
        model: sizes.
        optim: optimiser.
        loss: weights of the loss terms.
    """

    data: str = "data/pusht"
    dynamics_data: str = ""
    teacher: str | None = None
    encoder: str = "dino-112"
    encoder_weights: str | None = None
    out: str = "runs/pusht"
    cache: str = "data/latents"
    steps: int = 5000
    joint: float = 0.3
    pose_steps: int = 4000
    batch: int = 256
    horizon: int = 5
    samples: int = 300
    iterations: int = 10
    held_out: float = 0.05
    seed: int = 0
    resume: bool = False
    log_every: int = 50
    validate_every: int = 500
    save_every: int = 500
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)


Array = NDArray[Any]


class Heads(nn.Module):
    """What only training needs: the token decoder and the inverse model."""

    basis: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec, sample: Tensor):
        """`sample` ``[M, N, C]``: tokens of some frames, for the principal components."""
        super().__init__()
        channels = min(12, spec.token_dim)
        basis = principal_axes(sample.flatten(0, 1), channels)
        target = (sample - sample.mean(0)) @ basis
        self.register_buffer("basis", basis)
        self.register_buffer("mean", sample.mean(0))
        self.register_buffer("scale", target.std().clamp_min(1e-6))
        latent = config.tokens * config.dim
        actions = config.frameskip * len(spec.action_low)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 512),
            nn.GELU(approximate="tanh"),
            nn.Linear(512, 1024),
            nn.GELU(approximate="tanh"),
            nn.Linear(1024, spec.num_tokens * channels),
        )
        self.inverse = nn.Sequential(
            nn.Linear(2 * latent, 512), nn.GELU(approximate="tanh"), nn.Linear(512, actions)
        )

    def target(self, tokens: Tensor) -> Tensor:
        """The principal components of tokens ``[..., N, C]``, scaled, ``[..., N * channels]``."""
        return ((tokens @ self.basis - self.mean @ self.basis) / self.scale).flatten(-2)


class Trainer:
    """A run: model, optimiser, data, and one step of training."""

    def __init__(self, config: TrainConfig):
        self.config = c = config
        if c.loss.rollout < 1 or c.batch < 2:
            raise UserError(f"rollout is {c.loss.rollout}, batch {c.batch}; use at least 1 and 2")
        if not 0 < c.held_out < 1:
            raise UserError(f"held_out is {c.held_out}; it must lie between 0 and 1")
        if not 0 < c.joint <= 1:
            raise UserError(f"joint is {c.joint}; it must be above 0 and at most 1")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = load_encoder(c.encoder, weights=c.encoder_weights)
        self.teacher, self.taught = self._teacher()
        joint = [open_dataset(path) for path in c.data.split(",") if path]
        if not joint:
            raise UserError("data is empty; name at least one dataset folder")
        self.datasets = joint + [open_dataset(path) for path in c.dynamics_data.split(",") if path]
        if len({d.env_id for d in self.datasets}) > 1:
            raise UserError(
                f"datasets of different envs: {sorted({d.env_id for d in self.datasets})}"
            )
        self.tokens: list[Array] = [
            LatentCache.open_or_build(d, self.encoder, c.cache).tokens for d in self.datasets
        ]
        # Random reads from disk are slow: hold the tokens in memory where they fit.
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        seen = self.tokens[: len(joint)]
        fixed = REPRESENTATIONS[c.model.representation].fixed or self.teacher is not None
        self.joint = 0.0 if fixed else c.joint
        if self.joint and sum(tokens.nbytes for tokens in seen) < 0.6 * free:
            seen = [np.array(tokens) for tokens in seen]
        self._sample_from(joint, seen)
        self.spec = self.teacher.spec if self.teacher else self._spec()
        torch.manual_seed(c.seed)
        self.model = WorldModel(c.model, self.spec).to(self.device)
        self.heads: Heads | None = None
        if self.teacher:
            self._inherit(self.teacher)
        elif self.joint:
            sample = self.sampler.draw(self.train_on, 512, 2, np.random.default_rng(c.seed))
            tokens = gather(sample, self.features).float().flatten(0, 1).to(self.device)
            self.heads = Heads(c.model, self.spec, tokens).to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = self._optimizers()
        self.fixed = False  # whether frames are latents, no longer tokens
        self.step, self.minutes = 0, 0.0

    def _teacher(self) -> tuple[WorldModel | None, CheckpointInfo | None]:
        """The model to imitate and what is known of it, if there is one."""
        c = self.config
        if c.teacher is None:
            return None, None
        model, _, info = load_checkpoint(c.teacher)
        known = {**asdict(info.model), "encoder": info.encoder_hash}
        wanted = {**asdict(c.model), "encoder": self.encoder.hash}
        for name in ("encoder", "representation", "tokens", "dim", "context", "frameskip"):
            if known[name] != wanted[name]:
                raise UserError(
                    f"{name} is {wanted[name]!r}, but the teacher's is {known[name]!r}: "
                    "a predictor can only be taught by one of the same latents and steps"
                )
        return model.to(self.device), info

    def _inherit(self, teacher: WorldModel) -> None:
        """Take over what makes latents, and what a predictor knows besides its weights."""
        self.model.representation.load_state_dict(teacher.representation.state_dict())
        known = dict(teacher.predictor.named_buffers())
        for name, buffer in self.model.predictor.named_buffers():
            if name in known:
                buffer.copy_(known[name])

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        c = self.config.optim
        matrices = [p for p in self.model.predictor.blocks.parameters() if p.ndim == 2]
        others = [p for p in self._parameters() if not any(p is m for m in matrices)]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.ndim >= 2]},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        return [
            torch.optim.Muon(
                matrices, lr=c.lr, weight_decay=c.weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(groups, lr=c.lr, weight_decay=c.weight_decay, fused=True),
        ]

    def _parameters(self) -> list[nn.Parameter]:
        heads = self.heads.parameters() if self.heads else ()
        return [*self.model.parameters(), *heads]

    def _spec(self) -> DataSpec:
        data = self.datasets[0]
        proprio = np.concatenate([d.proprio for d in self.datasets])
        return DataSpec(
            num_tokens=self.encoder.num_tokens,
            token_dim=self.encoder.dim,
            action_low=tuple(float(x) for x in data.action_low),
            action_high=tuple(float(x) for x in data.action_high),
            proprio_mean=tuple(float(x) for x in proprio.mean(0)),
            proprio_std=tuple(float(x) for x in np.maximum(proprio.std(0), 1e-6)),
        )

    def _normalised(self, proprio: Tensor) -> Tensor:
        return (proprio - self.model.proprio_mean) / self.model.proprio_std

    def loss(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its terms."""
        frames = gather(clips, self.features).to(self.device)
        proprio, actions = clips.proprio.to(self.device), clips.actions.to(self.device)
        if self.teacher:
            terms = self._imagination(*self._lesson(frames.float(), proprio, actions))
        elif self.fixed:
            terms = self._imagination(frames.float(), proprio, actions)
        else:
            tokens = frames.bfloat16()
            z = self.model.encode(tokens)
            terms = {**self._imagination(z, proprio, actions), **self._latents(z, tokens, actions)}
        weights = {**asdict(self.config.loss), "predict": 1.0}
        return sum((weights[name] * term for name, term in terms.items()), torch.zeros(())), terms

    def _imagination(self, z: Tensor, proprio: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """How well latents ``z [B, J, P, D]`` are predicted, and proprio with them."""
        k, share = self.config.model.context, self.config.loss.predictable
        z = share * z + (1 - share) * z.detach()
        # Relative to their spread: latents must not become predictable by shrinking.
        spread = z.flatten(0, 1).var(0).mean()
        seen_z, seen_proprio = z[:, :k], proprio[:, :k]
        errors, proprio_errors = [], []
        for t in range(self.config.loss.rollout):
            next_z, next_proprio = self.model.predict(seen_z, seen_proprio, actions[:, t : t + k])
            errors.append(F.mse_loss(next_z, z[:, k + t]) / spread)
            proprio_errors.append(
                F.mse_loss(self._normalised(next_proprio), self._normalised(proprio[:, k + t]))
            )
            seen_z = torch.cat([seen_z[:, 1:], next_z.unsqueeze(1)], 1)
            seen_proprio = torch.cat([seen_proprio[:, 1:], next_proprio.unsqueeze(1)], 1)
        if self.teacher:  # what it imagines need not show the robot
            z, proprio = z[:, :k], proprio[:, :k]
        read = self._normalised(self.model.read_proprio(z))
        return {
            "predict": torch.stack(errors).mean(),
            "proprio": torch.stack(proprio_errors).mean(),
            "read_proprio": F.mse_loss(read, self._normalised(proprio)),
        }

    @torch.no_grad()
    def _lesson(self, z: Tensor, proprio: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same clips, but what follows the context is what the teacher imagines: in half of
        them under the logged actions, in the others under such as planners try, one for each model
        step, long ones in some clips and short ones in others."""
        assert self.teacher is not None
        c, (clips, steps) = self.config.model, actions.shape[:2]
        k = c.context
        low, high = self.model.action_low, self.model.action_high
        chance = torch.Generator().manual_seed(self.config.seed + self.step)  # resuming repeats it
        tried = torch.rand(clips, steps, 1, len(low), generator=chance).to(z.device)
        length = torch.rand(clips, 1, 1, 1, generator=chance).to(z.device)
        tried = (length * (low + (high - low) * tried)).clamp(low, high)
        actions = actions.clone()
        actions[::2, k - 1 :] = tried.repeat(1, 1, c.frameskip, 1).flatten(2)[::2, k - 1 :]
        imagined = self.teacher.rollout(
            z[:, :k], proprio[:, :k], actions[:, : k - 1], actions[:, None, k - 1 :]
        )
        return (
            torch.cat([z[:, :k], imagined.z[:, 0]], 1),
            torch.cat([proprio[:, :k], imagined.proprio[:, 0]], 1),
            actions,
        )

    def _latents(self, z: Tensor, tokens: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """How much latents ``z [B, J, P, D]`` say of tokens and actions, and how evenly."""
        assert self.heads is not None
        k = self.config.model.context
        latest = slice(k - 1, None)  # the frames before are mostly repeats of these
        flat = z[:, latest].flatten(2)
        decoded = self.heads.decoder(flat).float()
        target = self.heads.target(tokens[:, latest])
        guessed = self.heads.inverse(torch.cat([flat[:, :-1], flat[:, 1:]], -1)).float()
        scale = (self.model.action_high - self.model.action_low).repeat(self.config.model.frameskip)
        taken = actions[:, k - 1 :] / scale * math.sqrt(12)  # a uniform action has variance 1

        batch = flat.flatten(0, 1)
        batch = batch - batch.mean(0)
        covariance = batch.T @ batch / (len(batch) - 1)
        spread = (covariance.diagonal() + 1e-4).sqrt()
        off = covariance - torch.diag_embed(covariance.diagonal())
        return {
            "reconstruct": F.mse_loss(decoded, target),
            "inverse": F.mse_loss(guessed, taken),
            "variance": F.relu(1 - spread).mean(),
            "covariance": off.square().sum() / off.shape[0],
        }

    def fix_latents(self) -> None:
        """From here on a frame is its latents, as the averaged representation gives them, and the
        episodes are those of all datasets."""
        model, average = self.model, self.average
        model.representation.load_state_dict(average.representation.state_dict())
        model.representation.requires_grad_(False)
        latents = [self._project(tokens) for tokens in self.tokens]
        self._sample_from(self.datasets, latents)
        self.fixed = True

    def _sample_from(self, datasets: list[Dataset], features: list[Array]) -> None:
        """Draw clips of these datasets, of whose frames the `features` are known."""
        self.sampler, self.features = ClipSampler(datasets, self.config.model.frameskip), features
        self.train_on, self.held_out = self.sampler.split(self.config.held_out)

    def _fit(self) -> None:
        """Fit what is computed from the logs rather than trained, unless it is there already."""
        representation, predictor = self.average.representation, self.average.predictor
        if representation.fitted and predictor.fitted:
            return
        mean, std = (
            np.array(numbers, np.float32)
            for numbers in (self.spec.proprio_mean, self.spec.proprio_std)
        )
        datasets = self.sampler.datasets
        logs = Logs(
            datasets=datasets,
            tokens=self.tokens[: len(datasets)],
            episodes=self.train_on,
            proprio=[(data.proprio - mean) / std for data in datasets],
            encoder=self.encoder,
            normalise_actions=self.model.normalised_actions,
            seed=self.config.seed,
            steps=self.config.pose_steps,
            device=self.device,
        )
        representation.fit(logs)
        predictor.fit(logs)
        self.model.load_state_dict(self.average.state_dict())
        self.save()

    @torch.no_grad()
    def _project(self, tokens: Array) -> Array:
        """Latents ``[M, P, D]`` of tokens ``[M, N, C]``, float16."""
        parts = []
        with torch.autocast(self.device.type, torch.bfloat16):
            starts = range(0, len(tokens), 2048)
            for at in progress(starts, len(starts), "latents"):
                part = torch.from_numpy(np.array(tokens[at : at + 2048])).to(self.device)
                parts.append(self.average.encode(part).half().cpu())
        return torch.cat(parts).numpy()

    def train_step(self) -> dict[str, float]:
        """One update. Everything random depends on the seed and the step alone, so a resumed run
        repeats an uninterrupted one to the last bit."""
        c = self.config
        if not self.fixed:
            self._fit()
            if self.step >= self.joint * c.steps:
                self.fix_latents()
        rng = np.random.default_rng((c.seed, self.step))
        frames = c.model.context + c.loss.rollout
        clips = self.sampler.draw(self.train_on, c.batch, frames, rng)
        done = self.step / c.steps
        lr = c.optim.lr * min(1.0, (self.step + 1) / c.optim.warmup)
        lr *= 0.5 * (1 + math.cos(math.pi * done))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        with torch.autocast(self.device.type, torch.bfloat16):
            loss, terms = self.loss(clips)
        for parameter in self._parameters():
            parameter.grad = None
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters(), c.optim.clip)
        if not math.isfinite(float(norm)):
            raise UserError(f"the gradient is {float(norm)} at step {self.step}; lower optim.lr")
        for optimizer in self.optimizers:
            optimizer.step()
        # A young average would remember the initialisation.
        decay = min(c.optim.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - decay
            )
        self.step += 1
        figures = {"loss": loss, **terms, "grad_norm": norm}
        return {**{name: float(value.detach()) for name, value in figures.items()}, "lr": lr}

    @torch.no_grad()
    def validate(self, clips: int = 512) -> dict[str, list[float]]:
        """Errors of the averaged model on held-out episodes, by depth of imagination."""
        c = self.config
        k, model = c.model.context, self.average
        depth = c.horizon
        rng = np.random.default_rng((c.seed, 2**31))
        batch = self.sampler.draw(self.held_out, clips, k + depth, rng)
        frames = gather(batch, self.features).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            z = frames.float() if self.fixed else model.encode(frames.float())
            proprio, actions = batch.proprio.to(self.device), batch.actions.to(self.device)
            imagined = model.rollout(
                z[:, :k], proprio[:, :k], actions[:, : k - 1], actions[:, None, k - 1 :]
            )
        true = z[:, k:]
        spread = (true - true.mean((0, 1))).square().mean()
        error = (imagined.z[:, 0] - true).square().mean((0, 2, 3)) / spread
        copied = (z[:, k - 1 : k] - true).square().mean((0, 2, 3)) / spread
        miss = self._normalised(imagined.proprio[:, 0]) - self._normalised(proprio[:, k:])
        return {
            "val_error": [round(float(x), 5) for x in error],
            "val_copy": [round(float(x), 5) for x in copied],
            "val_proprio": [round(float(x), 5) for x in miss.square().mean((0, 2))],
        }

    @torch.no_grad()
    def readable(self, clips: int = 512) -> tuple[float, ...]:
        """Share of the variance of each number of proprio, in held-out episodes, that the averaged
        model reads off one frame."""
        rng = np.random.default_rng((self.config.seed, 2**31))
        batch = self.sampler.draw(self.held_out, clips, 2, rng)
        frames, proprio = gather(batch, self.features)[:, -1].to(self.device), batch.proprio[:, -1]
        with torch.autocast(self.device.type, torch.bfloat16):
            z = frames.float() if self.fixed else self.average.encode(frames.float())
            read = self.average.read_proprio(z).cpu()
        missed = (read - proprio).square().mean(0) / proprio.var(0).clamp_min(1e-12)
        return tuple(round(float(x), 3) for x in (1 - missed).clamp(0, 1))

    @torch.no_grad()
    def near(self, frames: int = 512) -> float:
        """The squared latent distance that counts as near, from random held-out frames."""
        rng = np.random.default_rng((self.config.seed, 2**31))
        batch = self.sampler.draw(self.held_out, frames, 2, rng)
        frame = gather(batch, self.features)[:, -1].to(self.device).float()
        with torch.autocast(self.device.type, torch.bfloat16):
            z = frame if self.fixed else self.average.encode(frame)
        return near_distance(self.average, z)

    def save(self) -> None:
        """Write the checkpoint (what planning needs) and, beside it, the training state."""
        c = self.config
        out = Path(c.out)
        data = self.datasets[0]
        info = CheckpointInfo(
            env_id=data.env_id,
            env_kwargs=dict(data.env_kwargs),
            image_size=int(data.pixels_shape[0]),
            encoder=c.encoder,
            encoder_hash=self.encoder.hash,
            model=c.model,
            spec=self.spec,
            readable=self.readable(),
            near=self.near(),
            hold=tuple(data.hold) if isinstance(data.hold, list) else data.hold,
            action_names=data.action_names,
            probe=self.taught.probe if self.taught else {},  # as latents are the same
            familiar=self.taught.familiar if self.taught else {},
            horizon=c.horizon,
            samples=c.samples,
            iterations=c.iterations,
            proprio_names=data.proprio_names,
            training={
                "data": ",".join(path for path in (c.data, c.dynamics_data) if path),
                **({"teacher": c.teacher} if c.teacher else {}),
                "episodes": len(self.train_on),
                "steps": self.step,
                "batch": c.batch,
                "minutes": round(self.minutes, 1),
                "seed": c.seed,
                "loss": asdict(c.loss),
            },
        )
        save_checkpoint(out / "checkpoint", self.average, info)
        if c.encoder_weights is not None:
            keep_encoder(out / "checkpoint", c.encoder_weights)
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict() if self.heads else {},
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "minutes": self.minutes,
        }
        temporary = out / "state.pt.tmp"
        torch.save(state, temporary)
        os.replace(temporary, out / "state.pt")

    def resume(self) -> None:
        """Continue from the training state in `out`."""
        path = Path(self.config.out) / "state.pt"
        try:
            state = torch.load(path, weights_only=True, map_location=self.device)
            self.model.load_state_dict(state["model"])
            if self.heads:
                self.heads.load_state_dict(state["heads"])
            self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.minutes = int(state["step"]), float(state["minutes"])
        except FileNotFoundError:
            raise UserError(f"nothing to resume at {path}; start without --resume") from None
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot resume from {path}: {reason}") from None


def train(config: TrainConfig) -> Path:
    """Run to the end; returns the checkpoint's folder."""
    out = Path(config.out)
    if (out / "state.pt").exists() and not config.resume:
        raise UserError(f"{out} holds a run; give --resume true, or another --out")
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config)
    if config.resume:
        trainer.resume()
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(f"{len(trainer.train_on)} episodes, {parameters:,} parameters, {trainer.device}")
    start, before, at = time.monotonic(), trainer.minutes, trainer.step
    with _metrics(out / "metrics.jsonl", trainer.step) as write:
        bar: Progress[Any] = progress(total=config.steps - trainer.step, description="train")
        with bar:
            while trainer.step < config.steps:
                figures = trainer.train_step()
                trainer.minutes = before + (time.monotonic() - start) / 60
                rate = config.batch * (trainer.step - at) / max(1e-9, time.monotonic() - start)
                if trainer.step % config.log_every == 0 or trainer.step == config.steps:
                    write({"step": trainer.step, **figures}, trainer.minutes, rate)
                if trainer.step % config.validate_every == 0 or trainer.step == config.steps:
                    errors = trainer.validate()
                    write({"step": trainer.step, **errors}, trainer.minutes, rate)
                    print(_sentence(trainer.step, errors), flush=True)
                if trainer.step % config.save_every == 0:
                    trainer.save()
                bar.update(1, loss=figures["loss"], predict=figures["predict"], samples_per_s=rate)
    trainer.save()
    return out / "checkpoint"


@contextlib.contextmanager
def _metrics(path: Path, step: int) -> Iterator[Any]:
    """Append to metrics.jsonl, after dropping lines written beyond the resumed step."""
    lines = path.read_text().splitlines() if path.exists() and step > 0 else []
    kept = [line for line in lines if line and json.loads(line)["step"] <= step]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in kept)
        file.flush()

        def write(figures: dict[str, Any], minutes: float, rate: float) -> None:
            clock = {"minutes": round(minutes, 3), "samples_per_s": round(rate, 1)}
            file.write(json.dumps({**figures, **clock}) + "\n")
            file.flush()

        yield write


def _sentence(step: int, errors: dict[str, list[float]]) -> str:
    error, copied = errors["val_error"], errors["val_copy"]
    return (
        f"step {step}: held-out error {error[0]:.3f} of spread one step ahead (copying: "
        f"{copied[0]:.3f}), {error[-1]:.3f} at depth {len(error)} ({copied[-1]:.3f}); "
        f"proprio {errors['val_proprio'][0]:.3f} .. {errors['val_proprio'][-1]:.3f}"
    )


@run
def main(argv: list[str] | None = None) -> int:
    """Command line."""
    config = parse_config(TrainConfig, argv, "worldmodel.train", __doc__ or "")
    print(f"wrote {train(config)}")
    return 0
