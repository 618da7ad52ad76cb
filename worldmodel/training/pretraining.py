"""Pretraining of the project's own encoder: self-distillation of a small ViT on frames.

Student and teacher see the same crop in two looks, the student with some patches masked. The loss
has these terms:

- class token: cross-entropy between teacher and student over prototypes (DINO, Caron et al. 2021).
  Sinkhorn-Knopp balances the teacher, at a fixed low temperature (SwAV, Caron et al. 2020);
- patches: the same for each patch, masked (iBOT, Zhou et al. 2022) or not. Patches that are not
  masked learn to ignore the look;
- pixels: a linear head regresses those behind the mask (SimMIM, Xie et al. 2022), which teaches
  tokens where objects are, and those of the other patches, so that tokens keep small things.
  DINO has no such term;
- KoLeo, which spreads class tokens.

Instead of prototypes, projected patch tokens of both views can agree under VICReg or SIGReg,
without a teacher; see `self_distillation`.

The result, ``OUT/encoder``, is the moving average of the student's ViT, which is also the teacher.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from worldmodel.cli.device import autocast, pick_device
from worldmodel.encoders.augmentation import Augment, AugmentConfig, Views, dead_leaves
from worldmodel.encoders.procedural_scenes import render_scenes
from worldmodel.encoders.vit import ViT, ViTConfig, patchify
from worldmodel.errors import UserError
from worldmodel.training.loop import (
    Figures,
    Loop,
    LoopConfig,
    cosine,
    moving_average,
    open_run,
)
from worldmodel.training.metrics import check_tensorboard
from worldmodel.training.pretraining_frames import load_frames, pixel_statistics
from worldmodel.training.self_distillation import (
    DistillationNetwork,
    block_masks,
    cross_entropy,
    entropy,
    koleo,
    sigreg,
    sinkhorn,
    vicreg,
)


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run.

    Attributes:
        data: dataset folders, or .npy files of frames (uint8 [N, H, W, 3]), separated by commas.
        out: folder for metrics, the training state and the exported encoder.
        minutes: wall-clock budget; the schedules follow the share of it that is spent.
        steps: fixed number of steps instead of `minutes`.
        resume: continue from the training state in `out`.
        tensorboard: write metrics for TensorBoard, too, to OUT/tensorboard.
        device: auto, cpu, cuda or mps.
        batch: images per step.
        frames: frames in memory, the same number of each dataset.
        procedural: share of flat procedural images (dead leaves).
        bank: number of different ones.
        scenes: share of rendered procedural scenes.
        scene_bank: number of different images of them.
        dim: width of the ViT.
        depth: blocks of the ViT.
        heads: attention heads of the ViT.
        prototypes: prototypes of the class head and of the patch head.
        mask_share: share of global crops that are masked.
        mask_ratio: smallest and largest share of hidden patches.
        cls_weight: weight of the class-token term.
        patch_weight: weight of the patch term.
        pixel_weight: weight of the pixel terms.
        koleo_weight: weight of the KoLeo term.
        vicreg_weight: weight of VICReg of patches.
        sigreg_weight: weight of SIGReg of patches.
        student_temperature: of both heads.
        cls_temperature: of the teacher's class head.
        patch_temperature: of the teacher's patch head.
        lr: peak learning rate.
        weight_decay: of matrices.
        warmup: share of the run in which the learning rate rises.
        clip: largest gradient norm.
        ema: initial momentum of the teacher; it rises to 1.
        seed: of initialisation and sampling.
        log_every: steps between lines of metrics.
        save_every: steps between training states.
        augment: how views are made.
    """

    data: str
    out: str = "runs/ibot"
    minutes: float = 30.0
    steps: int | None = None
    resume: bool = False
    tensorboard: bool = False
    device: str = "auto"
    batch: int = 96
    frames: int = 40_000
    procedural: float = 0.25
    bank: int = 4_000
    scenes: float = 0.0
    scene_bank: int = 20_000
    dim: int = 192
    depth: int = 6
    heads: int = 3
    prototypes: int = 512
    mask_share: float = 0.75
    mask_ratio: tuple[float, float] = (0.1, 0.6)
    cls_weight: float = 1.0
    patch_weight: float = 1.0
    pixel_weight: float = 1.0
    koleo_weight: float = 0.1
    vicreg_weight: float = 0.0
    sigreg_weight: float = 0.0
    student_temperature: float = 0.1
    cls_temperature: float = 0.04
    patch_temperature: float = 0.03
    lr: float = 1e-3
    weight_decay: float = 0.04
    warmup: float = 0.05
    clip: float = 3.0
    ema: float = 0.99
    seed: int = 0
    log_every: int = 20
    save_every: int = 200
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_tensorboard(self.tensorboard)
        for name in ("batch", "frames", "bank", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.steps is None and self.minutes <= 0:
            raise UserError(f"minutes is {self.minutes}: give a positive budget, or steps")
        if not (self.procedural >= 0 and self.scenes >= 0 and self.procedural + self.scenes < 1):
            raise UserError(
                f"procedural is {self.procedural} and scenes is {self.scenes}: "
                "neither may be below 0, and their sum must be below 1"
            )


class Pretrainer:
    """A `Learner`: student, teacher, images and loss."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = c = config
        self.device = pick_device(c.device)
        size = c.augment.global_size
        recorded = load_frames([p for p in c.data.split(",") if p], c.frames, size, c.seed)
        leaves = dead_leaves(c.bank, size, c.seed)
        scenes = render_scenes(c.scene_bank if c.scenes else 0, size, c.seed)
        sources = [recorded, leaves, scenes] if c.scenes else [recorded, leaves]
        self.shares = [1 - c.procedural - c.scenes, c.procedural, c.scenes][: len(sources)]
        mean, std = pixel_statistics(sources, self.shares)
        self.vit_config = ViTConfig(
            image_size=size, dim=c.dim, depth=c.depth, heads=c.heads, mean=mean, std=std
        )
        self.images = [torch.from_numpy(source).to(self.device) for source in sources]
        statistics = (torch.tensor(numbers, device=self.device) for numbers in (mean, std))
        self.augment = Augment(c.augment, self.images[1], *statistics)
        torch.manual_seed(c.seed)
        self.model = DistillationNetwork(self.vit_config, c.prototypes).to(self.device)
        self.trained: dict[str, nn.Module] = {"student": self.model}
        self.progress = 0.0
        self.average = moving_average(self.model, self._momentum)
        decayed = [p for n, p in self.model.named_parameters() if _decays(n, p)]
        others = [p for n, p in self.model.named_parameters() if not _decays(n, p)]
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizers: list[Optimizer] = [
            torch.optim.AdamW(
                groups, lr=c.lr, betas=(0.9, 0.95), weight_decay=c.weight_decay, fused=True
            )
        ]

    @property
    def teacher(self) -> DistillationNetwork:
        """The moving average of the student."""
        return cast(DistillationNetwork, self.average.module)

    def learning_rate(self, step: int, progress: float) -> float:
        """A linear warm-up, and a cosine to a hundredth."""
        warmup = self.config.warmup
        return (min(1.0, progress / warmup) if warmup > 0 else 1.0) * cosine(progress, 0.01)

    def _momentum(self, count: int) -> float:
        return 1 - (1 - self.config.ema) * cosine(self.progress)

    def prepare(self, step: int, progress: float) -> bool:
        """Note the progress, which the teacher's momentum follows."""
        self.progress = progress
        return False

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a random batch, its terms, and figures that show a collapse."""
        c = self.config
        g = torch.Generator(self.device).manual_seed(c.seed * 1_000_003 + step)
        local = torch.Generator().manual_seed(c.seed * 1_000_003 + step)
        views = self.augment(self._draw(g), g)
        masks = block_masks(c.batch, self.model.vit.grid, c.mask_ratio, c.mask_share, local)
        masks = masks.to(self.device)
        compare = c.vicreg_weight > 0 or c.sigreg_weight > 0

        terms: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        with autocast(self.device):
            tokens = self.model.vit(views.student, masks)
            pixels = self.model.pixel_head(tokens[:, 1:])
            if compare:
                other = self.model.vit(views.teacher)
                both = [self.model.projector(x[:, 1:].flatten(0, 1)) for x in (tokens, other)]
                if c.vicreg_weight > 0:
                    terms["vicreg"] = vicreg(both[0], both[1])
                if c.sigreg_weight > 0:
                    terms["sigreg"] = sigreg(both[0], both[1], g)
            if c.cls_weight > 0 or c.patch_weight > 0:
                distilled, figures = self._distil(tokens, views)
                terms.update(distilled)
        error = pixels.float() - patchify(views.student, self.vit_config.patch_size)
        error = error.square().mean(-1)
        terms["pixel_loss"] = (error * masks).sum() / masks.sum().clamp_min(1)
        terms["visible_pixel_loss"] = (error * ~masks).sum() / (~masks).sum().clamp_min(1)
        terms["koleo"] = koleo(tokens[:, 0])
        weights = {
            "cls_loss": c.cls_weight,
            "patch_loss": c.patch_weight,
            "pixel_loss": c.pixel_weight,
            "visible_pixel_loss": c.pixel_weight,
            "koleo": c.koleo_weight,
            "vicreg": c.vicreg_weight,
            "sigreg": c.sigreg_weight,
        }
        loss = sum((weights[name] * term for name, term in terms.items()), torch.zeros(()))
        return loss, {**{name: term.detach() for name, term in terms.items()}, **figures}

    def _distil(self, tokens: Tensor, views: Views) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms of self-distillation, and figures that show a collapse."""
        c = self.config
        with torch.no_grad():
            target = self.teacher.vit(views.teacher)
            teacher_cls = self.teacher.cls_head(target[:, 0])
            teacher_patch = self.teacher.patch_head(target[:, 1:].flatten(0, 1))
            cls_targets = sinkhorn(teacher_cls, c.cls_temperature)
            patch_targets = sinkhorn(teacher_patch, c.patch_temperature)
        cls_tokens = tokens[:, 0]
        if views.local_crops:
            small = self.model.vit(torch.cat(views.local_crops))
            cls_tokens = torch.cat([cls_tokens, small[:, 0]])
        student_cls = self.model.cls_head(cls_tokens)
        student_patch = self.model.patch_head(tokens[:, 1:].flatten(0, 1))
        # Every crop of the student has the same target, the teacher's global crop.
        cls_losses = [
            cross_entropy(cls_targets, crop, c.student_temperature)
            for crop in student_cls.split(c.batch)
        ]
        terms = {
            "cls_loss": torch.stack(cls_losses).mean(),
            "patch_loss": cross_entropy(patch_targets, student_patch, c.student_temperature),
        }
        figures = {
            "cls_entropy": entropy(cls_targets).mean(),
            "patch_entropy": entropy(patch_targets).mean(),
            "cls_best": cls_targets.argmax(-1),
            "patch_best": teacher_patch[::16].argmax(-1),
        }
        return terms, figures

    def _draw(self, g: torch.Generator) -> Tensor:
        """A batch of recorded and procedural images, uint8 [B, H, W, 3]."""
        counts = [round(self.config.batch * share) for share in self.shares]
        counts[0] += self.config.batch - sum(counts)
        parts = []
        for images, count in zip(self.images, counts, strict=True):
            parts.append(images[torch.randint(len(images), (count,), generator=g, device=g.device)])
        return torch.cat(parts)

    def summarise(self, window: list[dict[str, Tensor]]) -> Figures:
        """Means over the steps, and how many prototypes were the best one of any token: few after a
        collapse. While the class token has learnt nothing, cls_below_uniform is 0."""
        best = ("cls_best", "patch_best")
        mean = {
            name: float(torch.stack([figures[name] for figures in window]).float().mean())
            for name in window[0]
            if name not in best
        }
        if "cls_best" not in window[0]:
            return mean
        uniform = math.log(self.config.prototypes)
        used = [len(torch.cat([figures[name] for figures in window]).unique()) for name in best]
        return {
            **mean,
            "cls_below_uniform": uniform - mean["cls_loss"],
            "patch_below_uniform": uniform - mean["patch_loss"],
            "cls_prototypes": used[0],
            "patch_prototypes": used[1],
        }

    def save(self, step: int, minutes: float) -> None:
        """Export the encoder."""
        trained = {"steps": step, "images": step * self.config.batch}
        export_encoder(self.teacher.vit, Path(self.config.out) / "encoder", trained)


def _decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: not to prototypes, which are normalised, nor to positions."""
    return parameter.ndim == 2 and "prototypes" not in name


def export_encoder(vit: ViT, folder: Path, trained: dict[str, Any]) -> None:
    """Write `model.safetensors` (bfloat16) and `config.json`, as `load_encoder` reads them."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {k: v.to("cpu", torch.bfloat16).contiguous() for k, v in vit.state_dict().items()}
    save_file(weights, temporary / "model.safetensors")
    config = {"format": 1, "vit": asdict(vit.config), "trained": trained}
    (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def start_pretraining(config: PretrainConfig) -> tuple[Pretrainer, Loop]:
    """The learner of a run, and its loop, resumed if `config` says so."""
    pretrainer = Pretrainer(config)
    loop_config = LoopConfig(
        out=Path(config.out),
        steps=config.steps,
        minutes=config.minutes,
        batch=config.batch,
        clip=config.clip,
        log_every=config.log_every,
        save_every=config.save_every,
        tensorboard=config.tensorboard,
    )
    loop = Loop(pretrainer, loop_config)
    if config.resume:
        loop.resume()
    return pretrainer, loop


def pretrain(config: PretrainConfig) -> Path:
    """Run to the end of the budget; returns the encoder's folder."""
    out = open_run(config.out, config.resume)
    pretrainer, loop = start_pretraining(config)
    parameters = sum(p.numel() for p in pretrainer.model.vit.parameters())
    print(
        f"{' + '.join(str(len(images)) for images in pretrainer.images)} images, "
        f"{parameters:,} parameters, {pretrainer.device}"
    )
    loop.run()
    return out / "encoder"
