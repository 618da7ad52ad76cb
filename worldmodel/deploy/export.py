"""Export the encoder and the predictor, for robots that do not have this package.

    python -m worldmodel.export --checkpoint pusht --out out/pusht

The folder then holds three programs that need torch alone (`torch.export`): ``encoder.pt2``, camera
images to latents; ``predictor.pt2``, what follows from candidate actions, over the whole horizon;
and ``distance.pt2``, how far latents are from those of a goal image. With ``--onnx true``, also the
same three for ONNX runtimes. ``README.md`` says how to call them, and ``export.json`` says it to
programs.

What was written is loaded again and run beside the model itself, on random images and on frames of
the environment. Where the two differ by more than `TOLERANCE`, nothing is kept.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import inspect
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.cli import (
    Progress,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    parse_config,
    progress,
    run,
)
from worldmodel.encoders.encoder import Encoder
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.models.checkpoint import CheckpointInfo, load_checkpoint
from worldmodel.models.world_model import WorldModel

Values = tuple[Tensor, ...]
Function = Callable[..., Tensor | Values]
BATCHES = (1, 7, 64)  # sizes that are tried
# Largest difference, as a share of the largest number. Rounding is a millionth of it; but where an
# image shows nothing of the thing, its turn is a vector of hardly any length that is made longer.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
ONNX = ("onnx", "onnxscript", "onnxruntime")
README, DESCRIPTION = "README.md", "export.json"
FILES = {README, DESCRIPTION} | {
    f"{name}.{ending}"
    for name in ("encoder", "predictor", "distance")
    for ending in ("pt2", "onnx")
}


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
            raise UserError(
                f"ONNX files compute in float32, not {self.precision}: leave out one of the two"
            )


# ---------------------------------------------------------------------------------- the programs
class See(nn.Module):
    """Images uint8 ``[B, H, W, 3]`` to latents ``[B, P, D]``."""

    def __init__(self, model: WorldModel, encoder: Encoder):
        super().__init__()
        self.encoder, self.projector = encoder, model.projector

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.encoder(pixels)
        with precision(self.encoder.autocast):
            z: Tensor = self.projector(tokens)
        return z


class Imagine(nn.Module):
    """`WorldModel.rollout` with a context for each candidate, so that there is one batch."""

    def __init__(self, model: WorldModel, autocast: bool):
        super().__init__()
        self.autocast = autocast
        self.model = copy.deepcopy(model)
        del self.model.projector, self.model.proprio_head  # or they would be saved, too

    def forward(self, z: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Values:
        with precision(self.autocast):
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

    def forward(self, z: Tensor, goal: Tensor) -> Tensor:
        return self.model.distance(z, goal)


def precision(autocast: bool) -> torch.autocast:
    """How to compute: in bfloat16, as the agent does, or in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=autocast)


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
    eager: Function
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def programs(
    model: WorldModel, encoder: Encoder, info: CheckpointInfo, horizon: int
) -> list[Program]:
    """Encoder, predictor and distance, in the encoder's precision."""
    c, k, autocast = model.config, model.config.context, encoder.autocast
    latents, numbers = (c.tokens, c.dim), len(info.spec.proprio_mean)
    acted, side = c.frameskip * len(info.spec.action_low), info.image_size

    def see(pixels: Tensor) -> Tensor:
        tokens = encoder.encode(pixels)
        with precision(autocast):
            return model.project(tokens)

    def imagine(z: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Values:
        with precision(autocast):
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
        Program("encoder", See(model, encoder), see, (images,), (z,)),
        Program("predictor", Imagine(model, autocast), imagine, context, future),
        Program("distance", Compare(model), model.distance, (z, one_goal), (near,)),
    ]


def write_program(program: Program, folder: Path, onnx: bool) -> dict[str, Function]:
    """Write a program to `folder`; returns how to run what is there, by the name of its file."""
    example = tuple(
        torch.zeros(
            [2 if n == "B" else int(n) for n in port.shape], dtype=getattr(torch, port.dtype)
        )
        for port in program.inputs
    )
    batch = torch.export.Dim("B")
    dynamic = tuple({0: batch} if port.shape[0] == "B" else None for port in program.inputs)
    exported = torch.export.export(program.module, example, dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    path = folder / f"{program.name}.pt2"
    atomic_write_bytes(path, buffer.getvalue())
    written: dict[str, Function] = {path.name: torch.export.load(path).module()}
    if onnx:
        path = path.with_suffix(".onnx")
        write_onnx(program, exported, path)
        written[path.name] = run_onnx(path)
    return written


def write_onnx(program: Program, exported: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program as ONNX, its weights within the same file."""
    names, results = ([port.name for port in ports] for ports in (program.inputs, program.outputs))
    converted = torch.onnx.export(
        exported, dynamo=True, input_names=names, output_names=results, verbose=False
    )
    assert converted is not None
    converted.save(path, external_data=False)


def run_onnx(path: Path) -> Function:
    """The program in an ONNX file, by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def function(*inputs: Tensor) -> Values:
        found = session.run(None, dict(zip(names, map(Tensor.numpy, inputs), strict=True)))
        return tuple(map(torch.from_numpy, found))

    return function


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
    low, high = (
        np.tile(each, info.model.frameskip) for each in (spec.action_low, spec.action_high)
    )
    actions = rng.uniform(low, high, (steps, len(low)))
    return Episode(*map(torch.from_numpy, (pixels, np.float32(proprio), np.float32(actions))))


def real_episode(env: gym.Env[Any, Any], info: CheckpointInfo, frames: int, steps: int) -> Episode:
    """The same, of random actions in the environment that the checkpoint is for."""
    actions = random_episode(info, 1, steps).actions
    seen = [env.reset(seed=0)[0]]
    for taken in actions[: frames - 1].unflatten(-1, (info.model.frameskip, -1)).numpy():
        for action in taken:
            obs = env.step(action)[0]
        seen.append(obs)
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
def difference(written: Function, eager: Function, inputs: Values) -> tuple[float, float]:
    """How far apart at most the two are in batches of all sizes: absolute, and as a share of the
    largest number. NaN where one of them is, or where shapes differ."""
    apart, share = [], []
    for size in BATCHES:
        part = [each[:size] for each in inputs]
        results = (written(*part), eager(*part))
        pairs = ((each,) if isinstance(each, Tensor) else each for each in results)
        for found, expected in zip(*pairs, strict=True):
            if found.shape != expected.shape:
                return float("nan"), float("nan")
            apart.append((found - expected).abs().max())
            share.append(apart[-1] / expected.abs().max().clamp_min(1e-9))
    return float(torch.stack(apart).max()), float(torch.stack(share).max())


def check(
    parts: list[Program],
    written: list[dict[str, Function]],
    episodes: dict[str, Episode],
    tolerance: float,
) -> list[dict[str, Any]]:
    """Run every file beside the model on all episodes; returns how far apart they are.

    Raises:
        UserError: farther than `tolerance`.
    """
    see, imagine, _ = parts
    context, horizon = (int(imagine.inputs[at].shape[1]) for at in (0, -1))
    rows: dict[str, dict[str, Any]] = {}
    for kind, episode in episodes.items():
        with torch.no_grad():
            z = see.eager(episode.pixels)
        assert isinstance(z, Tensor)
        inputs = inputs_of(episode, z, context, horizon)
        for part, files in zip(parts, written, strict=True):
            for file, function in files.items():
                absolute, relative = difference(function, part.eager, inputs[part.name])
                if not relative <= tolerance:
                    raise UserError(
                        f"{file} is off by {relative:.2g} of the largest number, on {kind}: the "
                        f"model computes something else, and {tolerance:g} is tolerated. Nothing "
                        "was written; another version of torch may do better"
                    )
                row = rows.setdefault(file, {"file": file})
                row[kind] = {"absolute": absolute, "relative": relative}
    return list(rows.values())


# ------------------------------------------------------------------------------- what is told
def describe(
    config: ExportConfig,
    info: CheckpointInfo,
    about: str,
    parts: list[Program],
    differences: list[dict[str, Any]],
) -> dict[str, Any]:
    """What ``export.json`` holds. `about`: what the environment says of itself, units above all."""
    return {
        "checkpoint": config.checkpoint,
        "env_id": info.env_id,
        "env_kwargs": info.env_kwargs,
        "env_about": about,
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


def guide(told: dict[str, Any]) -> str:
    """What ``README.md`` holds, of what ``export.json`` does."""
    k, skip, horizon, side = (told[n] for n in ("context", "frameskip", "horizon", "image_size"))
    acted, numbers = skip * len(told["action_low"]), len(told["proprio_mean"])
    low, high = ([float(f"{x:.6g}") for x in told[name]] for name in ("action_low", "action_high"))
    steps = "environment step" if skip == 1 else f"{skip} environment steps"
    ports = [
        f"| `{name}` | {way[:-1]} | `{port['name']}` | {port['dtype']} "
        f"`[{', '.join(map(str, port['shape']))}]` | {port['meaning']} |"
        for name, program in told["programs"].items()
        for way in ("inputs", "outputs")
        for port in program[way]
    ]
    context = "the latest frame alone: `past` has no actions"
    if k > 1:
        context = (
            f"{k} frames, a model step apart, and the actions between them. Before the first\n"
            "  one, the robot stood still: repeat it, with actions of 0 or the bound nearest to 0"
        )
    about = "What the environment says of itself:\n\n" if told["env_about"] else ""
    about += "".join(f"> {line}".rstrip() + "\n" for line in told["env_about"].splitlines())
    batches = ", ".join(map(str, told["batches"]))
    onnx = any(row["file"].endswith(".onnx") for row in told["differences"])
    return f"""# The world model {told["checkpoint"]}, for {told["env_id"]}

Written by `python -m worldmodel.export`, in {told["precision"]}, with torch {told["torch"]}: use
that version or a newer one. Nothing else is needed.

| program | | name | `B` is any batch size | meaning |
|---|---|---|---|---|
{chr(10).join(ports)}

- A model step is {steps}. Its action is all of theirs, one after the other: {skip} x {len(low)}
  numbers, those of each step within {low} and {high}. Keep to these bounds.
- The context is {context}.
- Proprio is {", ".join(told["proprio_names"]) or f"{numbers} numbers"}, in SI units.
- Images are what the environment's camera shows, {side} x {side} pixels, normalised inside.
- Inputs are on the CPU, which computes.
- Every candidate has its own context: that of one robot is expanded, as below.

{about}
In this folder, of 64 random plans the one that leads nearest to a goal image:

```python
import torch
encoder = torch.export.load("encoder.pt2").module()
predictor = torch.export.load("predictor.pt2").module()
distance = torch.export.load("distance.pt2").module()
frames, goal = torch.randint(256, ({k + 1}, {side}, {side}, 3)).byte().split([{k}, 1])  # camera
proprio, past = torch.zeros(1, {k}, {numbers}), torch.zeros(1, {k - 1}, {acted})  # robot
low, high = torch.tensor({low} * {skip}), torch.tensor({high} * {skip})
actions = low + (high - low) * torch.rand(64, {horizon}, {acted})
context = [each.expand(64, *each.shape[1:]) for each in (encoder(frames)[None], proprio, past)]
imagined_z, imagined_proprio = predictor(*context, actions)
best = actions[distance(imagined_z[:, -1], encoder(goal)).argmin()]
print(best[0].view({skip}, {len(low)}))  # to be carried out, before the next plan
```
{ONNX_GUIDE if onnx else ""}
## Checked

Loaded from these files and run beside the model itself, in batches of {batches}: the largest
difference, absolute and as a share of the largest number; {told["tolerance"]:g} is tolerated.

{table(told["differences"])}
"""


ONNX_GUIDE = """
The same programs are in the `.onnx` files. For instance:

```python
import numpy, onnxruntime
encoder = onnxruntime.InferenceSession("encoder.onnx")
frames = numpy.zeros((1, *encoder.get_inputs()[0].shape[1:]), numpy.uint8)
(z,) = encoder.run(["z"], {"pixels": frames})
```
"""


# ------------------------------------------------------------------------------- the command
def export(config: ExportConfig) -> list[dict[str, Any]]:
    """Write the folder, complete or not at all; returns how far files and model are apart.

    Raises:
        UserError: an unusable checkpoint, no ONNX, a folder that cannot be written or holds other
            things, or files that do not compute what the model does.
    """
    missing = [name for name in ONNX if config.onnx and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--onnx needs {', '.join(missing)}: pip install 'worldmodel[onnx]'")
    with new_folder(config.out) as folder:
        model, encoder, info = load_checkpoint(config.checkpoint)
        encoder.autocast = config.precision == "bfloat16"
        horizon = config.horizon or info.horizon
        frames = max(BATCHES) + info.model.context - 1
        sizes = frames, frames - 1 + horizon
        episodes = {"random images": random_episode(info, *sizes)}
        about = ""
        try:
            env = make_env(info.env_id, info.env_kwargs, info.image_size)
        except UserError as error:
            print(f"not tried on real frames: {error}", file=sys.stderr)
        else:
            episodes["real frames"] = real_episode(env, info, *sizes)
            about = inspect.getdoc(env.unwrapped) or ""
            env.close()
        parts = programs(model, encoder, info, horizon)
        bar: Progress[Program]
        with progress(parts, len(parts), "programs") as bar:
            written = [write_program(part, folder, config.onnx) for part in bar]
        differences = check(parts, written, episodes, TOLERANCE[config.precision])
        told = describe(config, info, about, parts, differences)
        atomic_write_json(folder / DESCRIPTION, told)
        atomic_write_text(folder / README, guide(told))
    return differences


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write to that takes the place of `out` in the end, or is gone if that is never
    reached.

    Raises:
        UserError: there is no place for it, or something else in its place.
    """
    out = out.absolute()
    try:
        there = {path.name for path in out.iterdir()} if out.exists() else set()
        if there - FILES or (there and DESCRIPTION not in there):
            other = min(there - FILES or there)
            raise UserError(f"{out} holds more than an export, {other}: choose another folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None
    with temporary as place:
        new, old = Path(place) / "new", Path(place) / "old"
        new.mkdir()
        yield new
        if out.exists():
            os.rename(out, old)
        os.rename(new, out)


@run
def main(argv: list[str] | None = None) -> None:
    """Export, and print how far what was written is from the model."""
    config = parse_config(ExportConfig, argv, "worldmodel.export", "Export encoder and predictor.")
    differences = export(config)
    print(f"wrote {config.out}: see {config.out / README}", file=sys.stderr)
    print(table(differences))
