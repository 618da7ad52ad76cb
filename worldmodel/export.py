"""Export the encoder and the predictor, for robots that do not have this package.

    python -m worldmodel.export --checkpoint pusht --out out/pusht

The folder then holds three programs that need torch alone (`torch.export`): ``encoder.pt2``, camera
images to latents; ``predictor.pt2``, what follows from candidate actions over the whole horizon; and
``distance.pt2``, how far latents are from those of a goal image. With ``--onnx true``, also the same
three for ONNX runtimes. ``README.md`` says how to call them, ``export.json`` the same for programs.

What was written is loaded again and run beside the model itself, on random images and on frames of
the environment. Where the two differ by more than `TOLERANCE`, nothing is kept.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.checkpoint import CheckpointInfo, load_checkpoint
from worldmodel.cli import atomic_write_json, atomic_write_text, parse_config, progress, run
from worldmodel.encoder import Encoder
from worldmodel.errors import UserError
from worldmodel.predictor import WorldModel
from worldmodel.tasks import make_env

Values = tuple[Tensor, ...]
BATCHES = (1, 7, 64)  # sizes that are tried
# Largest difference, as a share of the largest number. Rounding is a millionth of it; but where an
# image shows nothing of the thing, its turn is a vector of hardly any length that is made longer.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
ONNX = ("onnx", "onnxscript", "onnxruntime")
README, DESCRIPTION = "README.md", "export.json"


@dataclass(frozen=True)
class ExportConfig:
    """What to export, and where to.

    Attributes:
        out: folder to write; what an earlier export wrote there is replaced.
        checkpoint: bundled name or folder.
        horizon: model steps that the predictor imagines; 0: the checkpoint's.
        precision: of computing. In bfloat16, as the agent of this package does, it is faster where
            the processor has it; inputs and outputs are float32 either way.
        onnx: whether to write ONNX files, too; they compute in float32.
    """

    out: Path
    checkpoint: str = "pusht"
    horizon: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    onnx: bool = False

    def __post_init__(self) -> None:
        if self.horizon < 0:
            raise UserError(f"horizon is {self.horizon}: it must be at least 1, or 0")
        if self.onnx and self.precision != "float32":
            raise UserError("ONNX files compute in float32: leave out --precision, or --onnx")


# ---------------------------------------------------------------------------------- the programs
class See(nn.Module):
    """Images uint8 ``[B, H, W, 3]`` to latents ``[B, P, D]``."""

    def __init__(self, model: WorldModel, encoder: Encoder):
        super().__init__()
        self.encoder, self.projector = encoder, model.projector

    def forward(self, pixels: Tensor) -> Values:
        tokens = self.encoder(pixels)
        with precision(self.encoder.bfloat16):
            return (self.projector(tokens),)


class Imagine(nn.Module):
    """`WorldModel.rollout` with a context for each candidate, so that there is one batch."""

    def __init__(self, model: WorldModel, bfloat16: bool):
        super().__init__()
        self.bfloat16 = bfloat16
        self.model = copy.deepcopy(model)
        del self.model.projector, self.model.proprio_head  # or they would be saved, too

    def forward(self, z: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Values:
        with precision(self.bfloat16):
            imagined = self.model.rollout(z, proprio, past, actions.unsqueeze(1))
        return imagined.z.squeeze(1), imagined.proprio.squeeze(1)


class Compare(nn.Module):
    """`WorldModel.distance` of latents ``[B, P, D]`` to those of one goal ``[1, P, D]``."""

    def __init__(self, model: WorldModel):
        super().__init__()
        self.model = copy.deepcopy(model)
        del self.model.predictor, self.model.proprio_head
        for name, _ in list(self.model.projector.named_children()):
            delattr(self.model.projector, name)  # distances need buffers only

    def forward(self, z: Tensor, goal: Tensor) -> Values:
        return (self.model.distance(z, goal),)


def precision(bfloat16: bool) -> torch.autocast:
    """How to compute: as the agent does, or in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)


class Port(NamedTuple):
    """An input or output of a program; the first number of `shape` may be "B", the batch."""

    name: str
    shape: tuple[int | str, ...]
    meaning: str
    dtype: str = "float32"


@dataclass(frozen=True)
class Program:
    """What becomes a file: `module` is written, `eager` is what the package computes itself."""

    name: str
    module: nn.Module
    eager: Callable[..., Values]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def programs(
    model: WorldModel, encoder: Encoder, info: CheckpointInfo, horizon: int
) -> list[Program]:
    """Encoder, predictor and distance, in the encoder's precision."""
    c, k, bfloat16 = model.config, model.config.context, encoder.bfloat16
    latents, numbers = (c.tokens, c.dim), len(info.spec.proprio_mean)
    acted, side = c.frameskip * len(info.spec.action_low), info.image_size

    def eager_see(pixels: Tensor) -> Values:
        tokens = encoder.encode(pixels)
        with precision(bfloat16):
            return (model.project(tokens),)

    def eager_imagine(z: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Values:
        with precision(bfloat16):
            imagined = model.rollout(z, proprio, past, actions[:, None])
        return tuple(part[:, 0] for part in imagined)

    z = Port("z", ("B", *latents), "latents of an image")
    one_goal = Port("goal", (1, *latents), "latents of the goal image")
    images = Port("pixels", ("B", side, side, 3), "camera images, RGB from 0 to 255", "uint8")
    context = (
        Port("z", ("B", k, *latents), "latents of the context frames, the latest last"),
        Port("proprio", ("B", k, numbers), "what the robot measured at these frames"),
        Port("past", ("B", k - 1, acted), "actions between these frames"),
        Port("actions", ("B", horizon, acted), "candidate actions from then on"),
    )
    future = (
        Port("imagined_z", ("B", horizon, *latents), "latents after 1, 2, ... model steps"),
        Port("imagined_proprio", ("B", horizon, numbers), "proprio then"),
    )
    near = Port("distance", ("B",), "squared distance: the smaller, the more alike")
    return [
        Program("encoder", See(model, encoder), eager_see, (images,), (z,)),
        Program("predictor", Imagine(model, bfloat16), eager_imagine, context, future),
        Program(
            "distance",
            Compare(model),
            lambda z, goal: (model.distance(z, goal),),
            (z, one_goal),
            (near,),
        ),
    ]


def write_program(program: Program, folder: Path, onnx: bool) -> dict[str, Callable[..., Values]]:
    """Write a program to `folder`; returns how to run what is there, by the ending of its file."""
    batch = torch.export.Dim("B")
    example = tuple(
        torch.zeros(
            [2 if side == "B" else int(side) for side in port.shape],
            dtype=getattr(torch, port.dtype),
        )
        for port in program.inputs
    )
    dynamic = tuple({0: batch} if port.shape[0] == "B" else None for port in program.inputs)
    exported = torch.export.export(program.module, example, dynamic_shapes=dynamic)
    path = folder / f"{program.name}.pt2"
    torch.export.save(exported, path)
    loaded = torch.export.load(path).module()
    found: dict[str, Callable[..., Values]] = {"pt2": loaded}
    if onnx:
        import onnxruntime

        path = path.with_suffix(".onnx")
        names = {
            "input_names": [port.name for port in program.inputs],
            "output_names": [port.name for port in program.outputs],
        }
        converted = torch.onnx.export(exported, dynamo=True, verbose=False, **names)
        assert converted is not None
        converted.save(path, external_data=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run_onnx(*inputs: Tensor) -> Values:
            named = {name: value.numpy() for name, value in zip(names["input_names"], inputs)}
            return tuple(map(torch.from_numpy, session.run(names["output_names"], named)))

        found["onnx"] = run_onnx
    return found


# ------------------------------------------------------------------------------------- the check
class Episode(NamedTuple):
    """What a robot saw and did: ``pixels [M, H, W, 3]`` and ``proprio [M, Dp]`` at each model step,
    and ``actions [N, F*A]`` in these and some more."""

    pixels: Tensor
    proprio: Tensor
    actions: Tensor


def random_episode(info: CheckpointInfo, frames: int, steps: int) -> Episode:
    """Images of noise, and random numbers for the rest."""
    rng, side, spec = np.random.default_rng(0), info.image_size, info.spec
    pixels = rng.integers(0, 256, (frames, side, side, 3), np.uint8)
    proprio = rng.normal(spec.proprio_mean, spec.proprio_std, (frames, len(spec.proprio_mean)))
    low, high = (np.tile(each, info.model.frameskip) for each in (spec.action_low, spec.action_high))
    actions = rng.uniform(low, high, (steps, len(low)))
    return Episode(*map(torch.from_numpy, (pixels, np.float32(proprio), np.float32(actions))))


def real_episode(info: CheckpointInfo, frames: int, steps: int) -> Episode:
    """The same, of random actions in the environment that the checkpoint is for.

    Raises:
        UserError: it is none of the bundled ones.
    """
    actions = random_episode(info, 1, steps).actions
    env = make_env(info.env_id, info.env_kwargs, info.image_size)
    seen = [env.reset(seed=0)[0]]
    for taken in actions[: frames - 1].unflatten(-1, (info.model.frameskip, -1)).numpy():
        for action in taken:
            obs = env.step(action)[0]
        seen.append(obs)
    env.close()
    pixels, proprio = (np.stack([obs[name] for obs in seen]) for name in ("pixels", "proprio"))
    return Episode(torch.from_numpy(pixels), torch.from_numpy(proprio), actions)


def inputs_of(episode: Episode, z: Tensor, context: int, horizon: int) -> dict[str, Values]:
    """What each program is given at every moment of an episode that has enough before and after;
    ``z [M, P, D]`` are its latents. The goal is its last frame."""
    first = torch.arange(len(z) - context + 1)[:, None]
    seen, taken = first + torch.arange(context), first + torch.arange(context - 1)
    candidates = episode.actions[first + context - 1 + torch.arange(horizon)]
    past = episode.actions[taken]
    return {
        "encoder": (episode.pixels,),
        "predictor": (z[seen], episode.proprio[seen], past, candidates),
        "distance": (z, z[-1:]),
    }


@torch.no_grad()
def difference(
    written: Callable[..., Values], eager: Callable[..., Values], inputs: Values
) -> tuple[float, float]:
    """How far apart at most the two are in batches of all sizes: absolute, and as a share of the
    largest number. NaN where one of them is, or where shapes differ."""
    apart, share = [], []
    for size in BATCHES:
        part = [each[:size] for each in inputs]
        for found, expected in zip(written(*part), eager(*part), strict=True):
            if found.shape != expected.shape:
                return float("nan"), float("nan")
            apart.append((found - expected).abs().max())
            share.append(apart[-1] / expected.abs().max().clamp_min(1e-9))
    return float(torch.stack(apart).max()), float(torch.stack(share).max())


def check(
    written: dict[str, dict[str, Callable[..., Values]]],
    parts: list[Program],
    episodes: dict[str, Episode],
    horizon: int,
    tolerance: float,
) -> list[dict[str, Any]]:
    """Run every file beside the model on all episodes; returns how far apart they are.

    Raises:
        UserError: farther than `tolerance`.
    """
    see, imagine, _ = parts
    context = imagine.inputs[0].shape[1]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for kind, episode in episodes.items():
        with torch.no_grad():
            (z,) = see.eager(episode.pixels)
        inputs = inputs_of(episode, z, int(context), horizon)
        for part in parts:
            for ending, program in written[part.name].items():
                absolute, relative = difference(program, part.eager, inputs[part.name])
                file = f"{part.name}.{ending}"
                if not relative <= tolerance:
                    raise UserError(
                        f"{file} differs from the model by {relative:.2g} of the largest number, "
                        f"on {kind}; {tolerance:g} is tolerated: nothing was written. Another "
                        "version of torch or onnx may do better"
                    )
                row = rows.setdefault((part.name, ending), {"file": file})
                row[kind] = {"absolute": absolute, "relative": relative}
    return list(rows.values())


# ------------------------------------------------------------------------------- what is told
def describe(
    config: ExportConfig, info: CheckpointInfo, parts: list[Program], differences: list[Any]
) -> dict[str, Any]:
    """What ``export.json`` holds."""
    return {
        "checkpoint": config.checkpoint,
        "env_id": info.env_id,
        "env_kwargs": info.env_kwargs,
        "torch": torch.__version__,
        "precision": config.precision,
        "programs": {
            part.name: {
                "inputs": [port._asdict() for port in part.inputs],
                "outputs": [port._asdict() for port in part.outputs],
            }
            for part in parts
        },
        "image_size": info.image_size,
        "context": info.model.context,
        "frameskip": info.model.frameskip,
        "horizon": parts[1].inputs[-1].shape[1],
        "action_low": info.spec.action_low,
        "action_high": info.spec.action_high,
        "proprio_names": info.proprio_names,
        "proprio_mean": info.spec.proprio_mean,
        "proprio_std": info.spec.proprio_std,
        "tolerance": TOLERANCE[config.precision],
        "batches": BATCHES,
        "differences": differences,
    }


def table(differences: list[dict[str, Any]]) -> str:
    """The largest differences as a Markdown table."""
    kinds = [kind for kind in differences[0] if kind != "file"]
    head = "".join(f" {kind}: absolute | relative |" for kind in kinds)
    rows = [f"| file |{head}", "|---" * (1 + 2 * len(kinds)) + "|"]
    for row in differences:
        cells = "".join(f" {row[k]['absolute']:.1e} | {row[k]['relative']:.1e} |" for k in kinds)
        rows.append(f"| {row['file']} |{cells}")
    return "\n".join(rows)
