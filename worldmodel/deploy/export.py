"""Export of encoder and predictor, for robots that do not have this package.

    python -m worldmodel.export --checkpoint pusht --out out/pusht

The folder then holds three programs that need torch alone (`torch.export`): ``encoder.pt2``, camera
images to latents; ``predictor.pt2``, rollouts of candidate actions over the whole horizon; and
``distance.pt2``, squared distances of latents to a goal image's. With ``--onnx true``, the same
three for ONNX runtimes, too. ``README.md`` documents them, ``export.json`` does so for programs.

The written files are loaded and compared with the model on random images and on frames of the
environment. Where they differ by more than `checking.TOLERANCE`, nothing is written.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worldmodel.cli import Progress, atomic_write_json, atomic_write_text, progress
from worldmodel.cli.device import pick_device
from worldmodel.deploy import checking
from worldmodel.deploy.guide import describe, guide
from worldmodel.deploy.programs import Program, programs
from worldmodel.deploy.writing import DESCRIPTION, README, new_folder, write_program
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.models.checkpoint import load_checkpoint

ONNX = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportConfig:
    """What to export, and where to.

    Attributes:
        out: folder to write; an earlier export in it is replaced.
        checkpoint: bundled name, folder or hf:USER/NAME.
        horizon: model steps of a rollout; 0: the checkpoint's.
        precision: of the computation. bfloat16, the agent's, is faster where the processor supports
            it; inputs and outputs are float32 in any case.
        device: auto, cpu, cuda or mps: the device that the programs run on.
        onnx: whether to write ONNX files, too: in float32, for the CPU.
    """

    out: Path
    checkpoint: str = "pusht"
    horizon: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    onnx: bool = False

    def __post_init__(self) -> None:
        if self.horizon < 0:
            raise UserError(f"horizon is {self.horizon}: it must be at least 1, or 0")
        if self.onnx and (self.precision != "float32" or self.device != "cpu"):
            raise UserError(
                f"onnx files are for the cpu in float32, not {self.device} in {self.precision}: "
                "leave out --onnx, or the other flag"
            )


def export(config: ExportConfig) -> list[dict[str, Any]]:
    """Write the folder, complete or not at all; returns the differences of files and model.

    Raises:
        UserError: a damaged checkpoint, missing ONNX packages, a folder that cannot be written or
            holds other files, or programs that differ from the model.
    """
    missing = [name for name in ONNX if config.onnx and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--onnx needs {', '.join(missing)}: pip install 'worldmodel[onnx]'")
    device = pick_device(config.device)
    with new_folder(config.out) as folder:
        model, encoder, info = load_checkpoint(config.checkpoint)
        model, encoder = model.to(device), encoder.to(device)
        encoder.autocast = config.precision == "bfloat16"
        horizon = config.horizon or info.horizon
        frames = max(checking.BATCHES) + info.model.context - 1
        sizes = frames, frames - 1 + horizon
        episodes = {"random images": checking.random_episode(info, *sizes)}
        about = ""
        try:
            env = make_env(info.env_id, info.env_kwargs, info.image_size)
        except UserError as error:
            print(f"not checked on frames of the environment: {error}", file=sys.stderr)
        else:
            episodes["real frames"] = checking.real_episode(env, info, *sizes)
            about = inspect.getdoc(env.unwrapped) or ""
            env.close()
        parts = programs(model, encoder, info, horizon)
        bar: Progress[Program]
        with progress(parts, len(parts), "programs") as bar:
            written = [write_program(part, folder, config.onnx, device) for part in bar]
        tolerance = checking.TOLERANCE[config.precision]
        differences = checking.check(parts, written, episodes, tolerance, device)
        description = describe(
            config.checkpoint, info, about, config.precision, str(device), parts, differences
        )
        atomic_write_json(folder / DESCRIPTION, description)
        atomic_write_text(folder / README, guide(description))
    return differences
