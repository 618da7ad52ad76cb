"""Training of a world model on recorded episodes, with a frozen encoder.

The tokens of every frame are computed once and memory-mapped. There are two phases:

1. The representation is trained by temporal contrast, with smaller terms that keep details: see
   `losses`. It first learns to tell frames apart by whatever it can, such as the heading of an
   object. Then a kernel with a heavy tail and a larger weight of the forward model make latents
   smooth, so that they can be predicted and their distances compared.
2. The representation is fixed, the latents of every frame are computed once, and the predictor is
   trained. A step draws random clips and predicts their frames from recorded ones (teacher forcing)
   and from its own predictions (rollout).

A representation that is fitted beforehand, or that a `teacher` gives, starts in the second phase.

``OUT/metrics.jsonl``, and TensorBoard with `tensorboard`, have a line per `log_every` steps::

    step, minutes, samples_per_s
    loss                   weighted sum of the terms
    read_proprio           log of the error of proprio read off the latents of one frame / its
                           standard deviation
    contrast               first phase: InfoNCE, nats
    forward                first phase: squared error of latents that a small forward model
                           predicts / their spread, mean over depths
    reconstruct            first phase: unexplained variance of the reduced tokens
    inverse                first phase: unexplained variance of the actions, inferred from the
                           latents before and after them
    predict                second phase: squared error of predicted latents / their spread, mean
                           over depths
    distance               second phase: distance of predicted from true latents / half the mean
                           distance of random frames
    proprio                second phase: squared error of predicted proprio / its variance
    grad_norm, lr

and a line per `validate_every` steps, with errors on held-out episodes for 1, 2, ... model steps::

    val_error              squared error of predicted latents / their spread
    val_copy               the same for the prediction that nothing changes
    val_distance           distance of predicted from true latents / half the mean distance of
                           random frames
    val_proprio            squared error of predicted proprio / its variance
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from worldmodel.cli import progress
from worldmodel.cli.device import autocast, has_bfloat16, pick_device
from worldmodel.data.logs import Logs
from worldmodel.encoders.encoder import Encoder, load_encoder
from worldmodel.models.checkpoint import CheckpointInfo, keep_encoder, save_checkpoint
from worldmodel.models.decoder import Decoder, load_decoder
from worldmodel.models.world_model import WorldModel, near_distance
from worldmodel.training.config import LossConfig, OptimConfig, TrainConfig
from worldmodel.training.distillation import Teacher, load_teacher
from worldmodel.training.frames import TrainingFrames, open_frames
from worldmodel.training.loop import (
    Figures,
    Loop,
    LoopConfig,
    cosine,
    moving_average,
    open_run,
)
from worldmodel.training.losses import (
    LatentHeads,
    displace,
    distort,
    latent_terms,
    prediction_terms,
    temporal_contrast,
    weighted_sum,
)
from worldmodel.training.validation import (
    error_sentence,
    held_out_errors,
    imagined_picture,
    readable_share,
)

__all__ = ["LossConfig", "OptimConfig", "TrainConfig", "WorldModelTrainer", "start", "train"]
Array = NDArray[Any]
SHARP = 0.4  # share of the first phase with an exponential kernel
SHARP_FORWARD, SHARP_RECONSTRUCT = 0.25, 0.2  # of the weights of these terms meanwhile
MIXED = 0.5  # share of the clips of the first phase with frames in other looks
READ_PROPRIO = 0.02  # weight of this term in the second phase
VALIDATION, DISTANCE = 2**31, 2**31 + 1  # beside the seed, of validation clips and of the distance
DISTANCE_CLIPS = 1024  # that the distance is fitted to
PICTURED = 4  # clips in a picture


class WorldModelTrainer:
    """A `Learner`: the world model, its data and its loss."""

    def __init__(
        self,
        config: TrainConfig,
        frames: TrainingFrames,
        encoder: Encoder,
        joint: float,
        teacher: Teacher | None = None,
    ) -> None:
        """`joint`: share of the steps that train the representation."""
        self.config, self.frames, self.encoder = config, frames, encoder
        self.joint, self.teacher, self.device = joint, teacher, frames.device
        self.hold = frames.hold()
        self.progress = 0.0
        self.spec = teacher.model.spec if teacher else frames.spec(encoder)
        torch.manual_seed(config.seed)
        self.model = WorldModel(config.model, self.spec).to(self.device)
        self.trained: dict[str, nn.Module] = {"model": self.model}
        self.heads: LatentHeads | None = None
        if teacher:
            teacher.initialise(self.model)
        elif joint:
            self.heads = LatentHeads(config.model, self.spec).to(self.device)
            self.trained["heads"] = self.heads
        largest = config.optim.ema
        # A young average would remember the initial weights.
        self.average = moving_average(self.model, lambda count: min(largest, count / (count + 9)))
        self.optimizers = self._optimizers()

    @property
    def averaged(self) -> WorldModel:
        """The model with averaged weights, which is the one that is saved."""
        return cast(WorldModel, self.average.module)

    def _optimizers(self) -> list[Optimizer]:
        c = self.config.optim
        matrices = [p for p in self.model.predictor.blocks.parameters() if p.ndim == 2]
        parameters = [p for each in self.trained.values() for p in each.parameters()]
        others = [p for p in parameters if not any(p is m for m in matrices)]
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

    def learning_rate(self, step: int, progress: float) -> float:
        """A linear warm-up, and in each phase a cosine to zero."""
        joint = self.joint
        if progress < joint:
            share = progress / joint
        else:
            share = (progress - joint) / max(1e-9, 1 - joint)
        return min(1.0, (step + 1) / max(1, self.config.optim.warmup)) * cosine(share)

    # Before a step ---------------------------------------------------------------------------

    def prepare(self, step: int, progress: float) -> bool:
        """Fit representation and predictor where needed; fix the latents after the first phase."""
        self.progress = progress
        if self.frames.fixed:
            return False
        fitted = self._fit()
        if progress >= self.joint:
            self.fix_latents()
        elif not self.frames.reduced:
            reduce = self.averaged.representation.reduce
            self.frames.use_reduced(lambda tokens: self._compute(reduce, tokens, "reduce"))
        return fitted

    def _fit(self) -> bool:
        """Fit the parts that are computed from the logs; False if that is done already."""
        representation, predictor = self.averaged.representation, self.averaged.predictor
        if representation.fitted and predictor.fitted:
            return False
        mean, std = (
            np.array(numbers, np.float32)
            for numbers in (self.spec.proprio_mean, self.spec.proprio_std)
        )
        datasets = self.frames.sampler.datasets
        logs = Logs(
            datasets=datasets,
            tokens=self.frames.tokens[: len(datasets)],
            episodes=self.frames.train,
            proprio=[(dataset.proprio - mean) / std for dataset in datasets],
            encoder=self.encoder,
            normalise_actions=self.model.normalised_actions,
            seed=self.config.seed,
            steps=self.config.pose_steps,
            device=self.device,
        )
        representation.fit(logs)
        predictor.fit(logs)
        self.model.load_state_dict(self.averaged.state_dict())
        return True

    def fix_latents(self) -> None:
        """Fix the averaged representation, replace tokens by the latents that it gives, and fit the
        distance of latents."""
        encode, averaged = self.averaged.encode, self.averaged.representation
        self.frames.use_latents(lambda tokens: self._compute(encode, tokens, "latents"))
        if not self.teacher:
            rng = np.random.default_rng((self.config.seed, DISTANCE))
            clips = self.frames.draw(DISTANCE_CLIPS, self.config.clip, rng, before=0)
            averaged.fit_distance(clips.frames.float())
        self.model.representation.load_state_dict(averaged.state_dict())
        self.model.representation.requires_grad_(False)

    @torch.no_grad()
    def _compute(self, function: Callable[[Tensor], Tensor], tokens: Array, name: str) -> Tensor:
        """A function of tokens ``[M, N, C]``, computed in parts, float16, on the CPU."""
        parts = []
        with autocast(self.device):
            starts = range(0, len(tokens), 2048)
            for at in progress(starts, len(starts), name):
                part = torch.from_numpy(np.array(tokens[at : at + 2048])).to(self.device)
                if not has_bfloat16(self.device):
                    part = part.float()
                parts.append(function(part).half().cpu())
        return torch.cat(parts)

    # A step ----------------------------------------------------------------------------------

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a random batch, and its terms."""
        c = self.config
        rng = np.random.default_rng((c.seed, step))
        generator = torch.Generator().manual_seed(c.seed + step)
        length = c.model.context + c.loss.rollout
        if not self.frames.fixed:
            return self._representation_loss(step, rng, generator)
        clips = self.frames.draw(c.batch, length, rng)
        z, proprio, actions = clips.frames.float(), clips.proprio, clips.actions
        readable = None
        with autocast(self.device):
            if self.teacher:
                z, proprio, actions = self.teacher.relabel(z, proprio, actions, generator)
                readable = c.model.context  # its predictions need not show the robot
            context = displace(z, c.displaced, generator)[:, : c.model.context]
            terms = prediction_terms(
                self.model, z, proprio, actions, c.loss.rollout, context, readable
            )
            # Only the head still learns to read proprioception. Its gradient is clipped together
            # with the predictor's, so keep it small.
            loss = weighted_sum(replace(c.loss, read_proprio=READ_PROPRIO), terms)
        return loss, {name: term.detach() for name, term in terms.items()}

    def _representation_loss(
        self, step: int, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the first phase, which trains the representation, and its terms."""
        c = self.config
        smooth = self.progress >= SHARP * self.joint
        assert self.heads is not None
        clips = self.frames.draw(c.clips, c.clip, rng, before=0, mixed=MIXED)
        with autocast(self.device):
            shown = clips.shown
            shown = shown.bfloat16() if has_bfloat16(self.device) else shown.float()
            z = self.model.representation.adapt(distort(shown, c.noise, c.masked, generator))
            terms = latent_terms(self.model, self.heads, z, *clips[:3], c.loss.rollout)
            terms["contrast"] = temporal_contrast(z, clips.ids, generator, smooth)
            weights = c.loss
            if not smooth:
                weights = replace(
                    weights,
                    forward=SHARP_FORWARD * weights.forward,
                    reconstruct=SHARP_RECONSTRUCT * weights.reconstruct,
                )
            loss = weighted_sum(weights, terms)
        return loss, {name: term.detach() for name, term in terms.items()}

    def summarise(self, window: list[dict[str, Tensor]]) -> Figures:
        """The figures of the last step."""
        return {name: float(value) for name, value in window[-1].items()}

    # Validation ------------------------------------------------------------------------------

    @torch.no_grad()
    def held_out(self, count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents ``[B, J, P, D]``, proprio and actions of random held-out clips."""
        rng = np.random.default_rng((self.config.seed, VALIDATION))
        frames, proprio, actions = self.frames.draw(count, length, rng, held_out=True)[:3]
        frames = frames.float()
        if not self.frames.fixed:
            frames = self.averaged.representation.adapt(frames)
        return frames, proprio, actions

    def validate(self, clips: int = 512) -> tuple[dict[str, list[float]], str]:
        """Errors of the averaged model on held-out episodes, and a sentence about them; none in the
        first phase, in which the predictor is not trained yet."""
        if not self.frames.fixed:
            return {}, "the latents are trained, the predictor not yet"
        with autocast(self.device):
            batch = self.held_out(clips, self.config.model.context + self.config.horizon)
            errors = held_out_errors(self.averaged, *batch)
        return errors, error_sentence(errors)

    # Saving ----------------------------------------------------------------------------------

    def save(self, step: int, minutes: float) -> None:
        """Write the checkpoint."""
        c, taught = self.config, self.teacher
        folder = Path(c.out) / "checkpoint"
        with autocast(self.device):
            z, proprio, _ = self.held_out(512, 2)
            readable = readable_share(self.averaged, z[:, -1], proprio[:, -1])
        with torch.no_grad():
            near = near_distance(self.averaged, z[:, -1])
        data = self.frames.datasets[0]
        info = CheckpointInfo(
            env_id=data.env_id,
            env_kwargs=dict(data.env_kwargs),
            image_size=int(data.pixels_shape[0]),
            encoder=c.encoder,
            encoder_hash=self.encoder.hash,
            model=c.model,
            spec=self.spec,
            readable=readable,
            near=near,
            hold=self.hold,
            action_names=data.action_names,
            proprio_names=data.proprio_names,
            fit=data.fit,
            choices=data.choices,
            probe=taught.info.probe if taught else {},  # the latents are the same
            familiar=taught.info.familiar if taught else {},
            horizon=c.horizon,
            samples=c.samples,
            iterations=c.iterations,
            training={
                "data": ",".join(path for path in (c.data, c.dynamics_data) if path),
                **({"teacher": c.teacher} if c.teacher else {}),
                "episodes": len(self.frames.train),
                "steps": step,
                "batch": c.batch,
                "minutes": round(minutes, 1),
                "seed": c.seed,
                "loss": asdict(c.loss),
            },
        )
        save_checkpoint(folder, self.averaged, info)
        if c.encoder_weights is not None:
            keep_encoder(folder, c.encoder_weights)


def _with_frameskip(config: TrainConfig, frameskip: int) -> TrainConfig:
    return replace(config, model=replace(config.model, frameskip=frameskip))


def start(config: TrainConfig) -> tuple[WorldModelTrainer, Loop]:
    """The trainer of a run, and its loop, resumed if `config` says so.

    Raises:
        UserError: unusable data, encoder, teacher or training state.
    """
    device = pick_device(config.device)
    encoder = load_encoder(config.encoder, weights=config.encoder_weights).to(device)
    teacher = None
    if config.teacher is not None:
        teacher = load_teacher(config.teacher, config.model, encoder.hash, device)
        config = _with_frameskip(config, teacher.info.model.frameskip)
    joint = config.joint if config.learns_latents else 0.0
    frames = open_frames(config, encoder, device, looks=config.looks if joint else 0)
    config = _with_frameskip(config, frames.frameskip)
    trainer = WorldModelTrainer(config, frames, encoder, joint, teacher)
    loop_config = LoopConfig(
        out=Path(config.out),
        steps=config.steps if config.minutes is None else None,
        minutes=config.minutes or 0.0,
        batch=config.batch,
        clip=config.optim.clip,
        log_every=config.log_every,
        save_every=config.save_every,
        validate_every=config.validate_every,
        tensorboard=config.tensorboard,
    )
    draw = None
    if teacher and config.teacher and config.tensorboard:
        decoder = load_decoder(config.teacher, teacher.model, teacher.info)
        draw = partial(draw_imagined, trainer, decoder) if decoder else None
    loop = Loop(trainer, loop_config, trainer.validate, draw)
    if config.resume:
        loop.resume()
    return trainer, loop


def draw_imagined(trainer: WorldModelTrainer, decoder: Decoder) -> dict[str, Array]:
    """A picture of what the averaged model imagines in held-out clips, for TensorBoard."""
    clips = trainer.held_out(PICTURED, trainer.config.model.context + trainer.config.horizon)
    return {"imagined": imagined_picture(trainer.averaged, decoder, *clips)}


def train(config: TrainConfig) -> Path:
    """Run to the end; returns the checkpoint's folder."""
    out = open_run(config.out, config.resume)
    trainer, loop = start(config)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(
        f"{len(trainer.frames.train)} episodes, {trainer.frames.frameskip} actions in a model "
        f"step, {parameters:,} parameters, {trainer.device}"
    )
    loop.run()
    return out / "checkpoint"
