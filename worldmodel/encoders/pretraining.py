"""Train the project's own DINO: self-distillation of a small ViT on frames, on two CPU cores.

    python -m worldmodel.pretrain --config configs/dino.yaml --out runs/dino

Three terms, all served by one masked forward of the student on each global crop:

- class token: cross-entropy between teacher and student over prototypes (DINO, Caron et al. 2021),
  the teacher balanced by Sinkhorn-Knopp (SwAV, Caron et al. 2020) at a fixed low temperature;
- masked patches: the same per patch, against the teacher's unmasked view (iBOT, Zhou et al. 2022);
- masked pixels: a linear head regresses the pixels behind the mask (SimMIM, Xie et al. 2022).
  This is no part of DINO. It is an extra term with its own weight, because on a budget of minutes
  it is what teaches the patch tokens where things are.

With `--objective vicreg`, the first two compare embeddings instead of assignments to prototypes,
kept from collapsing by their variance and covariance (VICReg, Bardes et al. 2022).

What is exported, `OUT/encoder`, is the exponential moving average of the student's ViT.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from worldmodel.cli import parse_config, run
from worldmodel.data.dataset import open_dataset
from worldmodel.encoders.augmentation import Augment, AugmentConfig, dead_leaves
from worldmodel.encoders.encoder import ViT, ViTConfig, patchify
from worldmodel.errors import UserError


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run.

    Attributes:
        data: dataset folders, or .npy files of frames (uint8 [N, H, W, 3]), separated by commas.
        out: folder for metrics.jsonl, the training state and the exported encoder.
        objective: "dino", or "vicreg" to compare it with.
        minutes: wall-clock budget; the schedules follow the share of it that is spent.
        steps: fixed number of steps instead of `minutes`.
        resume: continue from the training state in `out`.
        batch: images per step.
        frames: frames held in memory, shared evenly between the datasets.
        procedural: share of images drawn from the procedural bank.
        bank: procedural images generated at the start.
        dim: width of the ViT.
        depth: blocks of the ViT.
        heads: attention heads of the ViT.
        prototypes: prototypes of the class head and of the patch head.
        mask_share: share of global crops that are masked.
        mask_ratio: smallest and largest share of patches hidden.
        cls_weight: weight of the class-token term.
        patch_weight: weight of the masked-patch term.
        pixel_weight: weight of the masked-pixel term.
        koleo_weight: weight of the spreading term on class tokens (0 switches it off).
        student_temperature: of both heads.
        cls_temperature: of the teacher's class head.
        patch_temperature: of the teacher's patch head.
        lr: peak learning rate.
        weight_decay: of AdamW, on matrices only.
        warmup: share of the run in which the learning rate rises.
        clip: largest gradient norm.
        ema: first momentum of the teacher; rises to 1.
        seed: of everything.
        log_every: steps between lines of metrics.jsonl.
        save_minutes: minutes between training states.
        augment: how views are made.
    """

    data: str = "data/pusht"
    out: str = "runs/dino"
    objective: Literal["dino", "vicreg"] = "dino"
    minutes: float = 30.0
    steps: int | None = None
    resume: bool = False
    batch: int = 96
    frames: int = 40_000
    procedural: float = 0.25
    bank: int = 4_000
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
    save_minutes: float = 3.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.augment.global_crops not in (1, 2):
            raise UserError(f"augment.global_crops is {self.augment.global_crops}; use 1 or 2.")
        for name in ("batch", "frames", "bank", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.steps is None and self.minutes <= 0:
            raise UserError(f"minutes is {self.minutes}; give a positive budget, or steps.")


class Head(nn.Module):
    """Tokens to prototype scores: an MLP, a bottleneck on the sphere, prototypes of unit length."""

    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 512)
        self.fc2 = nn.Linear(512, 128)
        self.prototypes = nn.Parameter(torch.randn(prototypes, 128))

    def forward(self, tokens: Tensor) -> Tensor:
        """Cosine of each token with each prototype, [..., dim] -> float32 [..., prototypes]."""
        hidden = self.fc2(F.gelu(self.fc1(tokens)))
        # In float32: at a temperature of 0.04 the rounding of bfloat16 would be visible.
        with torch.autocast("cpu", enabled=False):
            return F.normalize(hidden.float(), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Expander(nn.Sequential):
    """Tokens to the embeddings that VICReg compares, [..., dim] -> [..., width]."""

    def __init__(self, dim: int, width: int = 512) -> None:
        super().__init__(nn.Linear(dim, 512), nn.BatchNorm1d(512), nn.GELU(), nn.Linear(512, width))


class Network(nn.Module):
    """The ViT with its heads; student and teacher are two of these."""

    def __init__(self, config: PretrainConfig, vit: ViTConfig) -> None:
        super().__init__()

        def head() -> nn.Module:
            if config.objective == "vicreg":
                return Expander(vit.dim)
            return Head(vit.dim, config.prototypes)

        self.vit = ViT(vit)
        self.cls_head, self.patch_head = head(), head()
        self.pixel_head = nn.Linear(vit.dim, 3 * vit.patch_size**2)


def block_masks(
    count: int, grid: int, ratio: tuple[float, float], share: float, g: torch.Generator
) -> Tensor:
    """Random connected masks, bool [count, grid ** 2]; True is hidden.

    The highest cells of smooth noise: blobs of any shape that hit their ratio exactly. Ratios are
    evenly spaced and shuffled, so that the number of hidden patches is the same at every step:
    changing shapes would make oneDNN compile new kernels each time.
    """
    coarse = torch.rand(count, 1, 4, 4, generator=g)
    height = F.interpolate(coarse, (grid, grid), mode="bilinear").flatten(1)
    height = height + 0.05 * torch.rand(height.shape, generator=g)
    ratios = torch.zeros(count)
    masked = max(1, round(count * share))
    ratios[:masked] = torch.linspace(*ratio, masked)
    hidden = (ratios * grid**2).round()[torch.randperm(count, generator=g)]
    rank = height.argsort(dim=1, descending=True).argsort(dim=1)
    return rank < hidden.unsqueeze(1)


def sinkhorn(scores: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Assignments [N, K] whose rows sum to 1 and whose columns are (nearly) equally used.

    Kept as two scaling vectors, so that an iteration is two matrix-vector products.
    """
    q = ((scores - scores.max()) / temperature).exp()
    columns = torch.ones(q.shape[1])
    for _ in range(iterations):
        rows = 1.0 / (q @ columns).clamp_min(1e-30)
        columns = 1.0 / (q.T @ rows).clamp_min(1e-30)
    q = q * columns
    return q / q.sum(dim=1, keepdim=True)


def cross_entropy(targets: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Mean of -sum(targets * log softmax(scores / temperature)) over all but the last axis."""
    return -(targets * F.log_softmax(scores / temperature, dim=-1)).sum(-1).mean()


def koleo(tokens: Tensor) -> Tensor:
    """Kozachenko-Leonenko spread of class tokens [B, D]: minus log distance to the nearest."""
    unit = F.normalize(tokens.float(), dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2.0).argmax(dim=1)
    return -((unit - unit[nearest]).norm(dim=1) + 1e-4).log().mean()


def vicreg(embeddings: Tensor, target: Tensor) -> Tensor:
    """VICReg of embeddings [N, D] that should be as the targets [N, D] are: invariance, variance
    and covariance, weighted 25, 25 and 1 as published, over 25."""
    embeddings, target = embeddings.float(), target.float()
    centred = embeddings - embeddings.mean(0)
    covariance = centred.T @ centred / (len(centred) - 1)
    spread = (covariance.diagonal() + 1e-4).sqrt()
    apart = covariance - torch.diag_embed(covariance.diagonal())
    tied = apart.square().sum() / len(apart)
    return F.mse_loss(embeddings, target) + F.relu(1 - spread).mean() + tied / 25


def load_frames(paths: Sequence[str], count: int, size: int, seed: int) -> np.ndarray:
    """Draw frames from datasets or .npy files, shared evenly.

    Args:
        paths: dataset folders, or .npy files of uint8 [N, H, W, 3].
        count: frames in all, at most.
        size: side they are resized to, pixels.
        seed: of the draw.

    Returns:
        uint8 [M, size, size, 3].

    Raises:
        UserError: a path is missing or holds something else.
    """
    rng = np.random.default_rng(seed)
    share = max(1, count // max(1, len(paths)))
    parts = []
    for path in paths:
        if not Path(path).exists():
            raise UserError(f"No data at {path!r}. Make some with: python -m worldmodel.collect")
        if path.endswith(".npy"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
                raise UserError(
                    f"{path!r} holds {array.dtype} {list(array.shape)}; "
                    "frames are uint8 [N, H, W, 3]."
                )
            index = np.sort(rng.permutation(len(array))[:share])
            frames = np.ascontiguousarray(array[index])
        else:
            frames = _dataset_frames(path, share, rng)
        if frames.shape[1:3] != (size, size):
            frames = _resize(frames, size)
        parts.append(frames)
    return np.concatenate(parts)


def _dataset_frames(path: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` frames of a dataset folder, uint8 [N, H, W, 3], drawn evenly."""
    dataset = open_dataset(path)
    index = np.sort(rng.permutation(len(dataset))[:count])
    return dataset.pixels(index)


def _resize(frames: np.ndarray, size: int) -> np.ndarray:
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for i in range(0, len(frames), 256):
        x = torch.from_numpy(frames[i : i + 256]).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        out[i : i + 256] = x.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return out


class Trainer:
    """Everything a run holds, and one step of it."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = c = config
        size = c.augment.global_size
        frames = load_frames([p for p in c.data.split(",") if p], c.frames, size, c.seed)
        bank = dead_leaves(c.bank, size, c.seed)
        mean, std = _statistics(frames, bank, c.procedural)
        self.vit_config = ViTConfig(
            image_size=size, dim=c.dim, depth=c.depth, heads=c.heads, mean=mean, std=std
        )
        self.frames = torch.from_numpy(frames)
        self.bank = torch.from_numpy(bank)
        self.augment = Augment(c.augment, self.bank, torch.tensor(mean), torch.tensor(std))
        torch.manual_seed(c.seed)
        self.student = Network(c, self.vit_config)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        matrices = [p for n, p in self.student.named_parameters() if _decays(n, p)]
        others = [p for n, p in self.student.named_parameters() if not _decays(n, p)]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=c.lr,
            betas=(0.9, 0.95),
            weight_decay=c.weight_decay,
            fused=True,
        )
        self.step = 0
        self.elapsed = 0.0

    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        c = self.config
        share = self.step / c.steps if c.steps is not None else self.elapsed / (60 * c.minutes)
        return min(1.0, share)

    def train_step(self) -> dict[str, Tensor]:
        """One update; returns what metrics.jsonl averages."""
        c = self.config
        # The draw depends on the step alone: a resumed run sees what it would have seen.
        g = torch.Generator().manual_seed(c.seed * 1_000_003 + self.step)
        artificial = int(round(c.batch * c.procedural))
        real = torch.randint(len(self.frames), (c.batch - artificial,), generator=g)
        drawn = torch.randint(len(self.bank), (artificial,), generator=g)
        images = torch.cat([self.frames[real], self.bank[drawn]])
        globals_, locals_ = self.augment(images, g)
        views = torch.cat(globals_)
        grid = self.student.vit.grid
        mask = block_masks(len(views), grid, c.mask_ratio, c.mask_share, g)
        index = mask.flatten().nonzero().squeeze(1)

        progress = self.progress()
        momentum = 1 - (1 - c.ema) * (1 + math.cos(math.pi * progress)) / 2
        warm = min(1.0, progress / c.warmup) if c.warmup > 0 else 1.0
        lr = c.lr * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                seen = self.teacher.vit(views)
                teacher_cls = self.teacher.cls_head(seen[:, 0])
                teacher_patch = self.teacher.patch_head(seen[:, 1:].flatten(0, 1)[index])
            tokens = self.student.vit(views, mask)
            hidden = tokens[:, 1:].flatten(0, 1)[index]
            cls_tokens = tokens[:, 0]
            if locals_:
                small = self.student.vit(torch.cat(locals_))
                cls_tokens = torch.cat([cls_tokens, small[:, 0]])
            student_cls = self.student.cls_head(cls_tokens)
            student_patch = self.student.patch_head(hidden)
            pixels = self.student.pixel_head(hidden)

        agree = self._vicreg if c.objective == "vicreg" else self._dino
        cls_loss, patch_loss, health = agree(teacher_cls, student_cls, teacher_patch, student_patch)
        target_pixels = patchify(views, self.vit_config.patch_size).flatten(0, 1)[index]
        pixel_loss = F.mse_loss(pixels.float(), target_pixels)
        spread = koleo(tokens[: c.batch, 0])
        loss = (
            c.cls_weight * cls_loss
            + c.patch_weight * patch_loss
            + c.pixel_weight * pixel_loss
            + c.koleo_weight * spread
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), c.clip)
        if not math.isfinite(float(norm)):
            raise UserError(f"The gradient is {float(norm)} at step {self.step}; lower lr.")
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum
            )
        self.step += 1
        return {
            "loss": loss.detach(),
            "cls_loss": cls_loss.detach(),
            "patch_loss": patch_loss.detach(),
            "pixel_loss": pixel_loss.detach(),
            "koleo": spread.detach(),
            "grad_norm": norm.detach(),
            "lr": torch.tensor(lr),
            **health,
        }

    def _dino(
        self, teacher_cls: Tensor, student_cls: Tensor, teacher_patch: Tensor, student_patch: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The terms of class tokens and patches, from their scores, and what tells of collapse."""
        c = self.config
        with torch.no_grad():
            cls_targets = sinkhorn(teacher_cls, c.cls_temperature)
            patch_targets = sinkhorn(teacher_patch, c.patch_temperature)
        pairs = self._pairs(cls_targets, student_cls)
        cls_terms = [cross_entropy(t, s, c.student_temperature) for t, s in pairs]
        health = {
            "cls_entropy": _entropy(cls_targets).mean(),
            "patch_entropy": _entropy(patch_targets).mean(),
            # Not averaged but counted: which prototypes were somebody's best.
            "_cls_best": cls_targets.argmax(-1),
            "_patch_best": teacher_patch.argmax(-1),
        }
        patch_loss = cross_entropy(patch_targets, student_patch, c.student_temperature)
        return torch.stack(cls_terms).mean(), patch_loss, health

    def _vicreg(
        self, teacher_cls: Tensor, student_cls: Tensor, teacher_patch: Tensor, student_patch: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """As `_dino`, from embeddings."""
        pairs = self._pairs(teacher_cls, student_cls)
        cls_terms = [vicreg(s, t) for t, s in pairs]
        health = {
            "cls_std": student_cls.detach().float().std(0).mean(),
            "patch_std": student_patch.detach().float().std(0).mean(),
        }
        return torch.stack(cls_terms).mean(), vicreg(student_patch, teacher_patch), health

    def _pairs(self, teacher: Tensor, student: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every student view with every teacher view but itself (itself too if it is alone)."""
        teachers = teacher.chunk(self.config.augment.global_crops)
        students = student.split(self.config.batch)
        return [
            (t, s)
            for i, t in enumerate(teachers)
            for j, s in enumerate(students)
            if i != j or len(teachers) == 1
        ]

    def state(self) -> dict[str, Any]:
        """Everything that a bit-identical continuation needs."""
        return {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }

    def load(self, path: Path) -> None:
        """Continue from a training state. Raises UserError if it is of another shape of model."""
        try:
            state = torch.load(path, weights_only=True)
            self.student.load_state_dict(state["student"])
            self.teacher.load_state_dict(state["teacher"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.elapsed = int(state["step"]), float(state["elapsed"])
        except FileNotFoundError:
            raise UserError(f"Nothing to resume at {str(path)!r}: start without resume.") from None
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(f"Cannot resume from {str(path)!r}: {error}") from None

    def save(self, out: Path) -> None:
        """Write the training state and the encoder; neither is ever seen half written."""
        temporary = out / "state.pt.tmp"
        torch.save(self.state(), temporary)
        os.replace(temporary, out / "state.pt")
        trained = {"steps": self.step, "images": self.step * self.config.batch}
        export(self.teacher.vit, out / "encoder", trained)


def export(vit: ViT, folder: Path, trained: dict[str, Any]) -> None:
    """Write `model.safetensors` (bfloat16) and `config.json`, as `load_encoder` reads them."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in vit.state_dict().items()}
    save_file(weights, temporary / "model.safetensors")
    config = {"format": 1, "vit": asdict(vit.config), "trained": trained}
    (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def pretrain(config: PretrainConfig) -> dict[str, float]:
    """Run to the end of the budget; returns the last line of metrics.jsonl."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    state = out / "state.pt"
    if state.exists() and not config.resume:
        raise UserError(f"{config.out!r} holds a run: give --resume true, or another --out.")
    trainer = Trainer(config)
    if config.resume:
        trainer.load(state)
    held = f"{len(trainer.frames)} frames, {len(trainer.bank)} procedural images"
    print(f"{held}, {sum(p.numel() for p in trainer.student.vit.parameters()):,} parameters")
    window: list[dict[str, Tensor]] = []
    line: dict[str, float] = {}
    started = saved = logged = time.monotonic()
    before = trainer.elapsed
    with open(out / "metrics.jsonl", "a", encoding="utf-8") as file:
        while trainer.progress() < 1.0:
            window.append(trainer.train_step())
            now = time.monotonic()
            trainer.elapsed = before + now - started
            if len(window) == config.log_every or trainer.progress() >= 1.0:
                line = _summary(window, trainer, len(window) * config.batch / (now - logged))
                file.write(json.dumps(line) + "\n")
                file.flush()
                print("  ".join(f"{k} {v:.4g}" for k, v in line.items()), flush=True)
                window, logged = [], now
            if now - saved > 60 * config.save_minutes:
                trainer.save(out)
                saved = now
    trainer.save(out)
    return line


def _summary(
    window: list[dict[str, Tensor]], trainer: Trainer, images_per_s: float
) -> dict[str, float]:
    """One line of metrics.jsonl: means over the window, and what collapse would show in."""
    mean = {
        k: float(torch.stack([w[k] for w in window]).mean())
        for k in window[0]
        if not k.startswith("_")
    }
    line = {"step": trainer.step, "progress": trainer.progress(), **mean}
    if trainer.config.objective == "dino":
        uniform = math.log(trainer.config.prototypes)
        line |= {
            # Zero while the class token has learnt nothing.
            "cls_below_uniform": uniform - mean["cls_loss"],
            "patch_below_uniform": uniform - mean["patch_loss"],
            "cls_prototypes": len(torch.cat([w["_cls_best"] for w in window]).unique()),
            "patch_prototypes": len(torch.cat([w["_patch_best"] for w in window]).unique()),
        }
    return line | {"images_per_s": images_per_s, "minutes": trainer.elapsed / 60}


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp_min(1e-12).log()).sum(-1)


def _decays(name: str, parameter: Tensor) -> bool:
    """Weight decay is for matrices; prototypes are normalised, positions are not to shrink."""
    return parameter.ndim == 2 and "prototypes" not in name


def _statistics(
    frames: np.ndarray, bank: np.ndarray, procedural: float
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Per-channel mean and std, in [0, 1] units, of the mixture that training draws from."""
    mean, square = np.zeros(3), np.zeros(3)
    for images, weight in ((frames, 1 - procedural), (bank, procedural)):
        sample = images[:: max(1, len(images) // 500)].reshape(-1, 3) / 255.0
        mean += weight * sample.mean(0)
        square += weight * (sample**2).mean(0)
    std = np.sqrt(np.maximum(square - mean**2, 1e-4))
    triple = lambda a: (float(a[0]), float(a[1]), float(a[2]))  # noqa: E731
    return triple(mean), triple(std)


@run
def main(argv: list[str] | None = None) -> None:
    """Command line; exits with 2 on a user error."""
    pretrain(parse_config(PretrainConfig, argv, "worldmodel.pretrain", "Train the project's DINO."))
