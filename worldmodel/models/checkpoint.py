"""Checkpoints: a folder with ``model.safetensors`` and ``config.json``, which is all that planning
needs; findings about the model (see `findings`); and ``encoder/``, if the encoder was a local file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors

from worldmodel.cli import atomic_write_bytes
from worldmodel.errors import UserError
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.findings import (
    BUNDLED_FOLDER,
    CONFIG,
    ENCODER,
    FILES,
    WEIGHTS,
    bundled_for,
    encode_finding,
    find_checkpoint,
    read_findings,
    to_json,
    write_finding,
)
from worldmodel.models.world_model import WorldModel

if TYPE_CHECKING:
    from worldmodel.encoders.encoder import Encoder

__all__ = [
    "BUNDLED_FOLDER",
    "CONFIG",
    "CheckpointInfo",
    "bundled_for",
    "find_checkpoint",
    "keep_encoder",
    "load_checkpoint",
    "load_info",
    "record_evaluation",
    "save_checkpoint",
    "write_finding",
]

FORMAT_VERSION = 2


@dataclass(frozen=True)
class CheckpointInfo:
    """What ``config.json`` and the findings say about a model.

    Attributes:
        env_id: Gymnasium id of the environment the data came from.
        env_kwargs: keyword arguments that made the environment.
        image_size: side of the recorded images, pixels.
        fit: how images of another size become squares: see `worldmodel.data.image_fit`.
        encoder: name for `worldmodel.encoders.encoder.load_encoder`.
        encoder_hash: of the encoder's weights and preprocessing.
        model: sizes of the world model.
        spec: sizes and statistics of its inputs.
        readable: for each channel of proprioception, the share of its variance that the model reads
            off a single held-out image: 0 for a velocity, up to 1 for a position.
        near: squared latent distance that counts as near.
        hold: the action that keeps the robot where it is; "repeat" repeats the previous action;
            None: not declared.
        choices: how many options each choice of an action has, where actions are choices; else ().
        action_names: of the channels of an action, where the dataset has them.
        proprio_names: of the channels of proprioception, where the dataset has them.
        horizon: default model steps imagined by a planner, T.
        samples: default candidates per iteration of planners that sample.
        iterations: default iterations of planners that sample.
        training: data, steps, minutes, seed.
        format_version: of the folder.
        probe: finding: linear maps from latents to physical quantities.
        familiar: finding: a sample of the training data.
        surprise: finding: quantiles of the usual prediction errors.
        calibration: finding: margins of guardrails, by a hash of all that they depend on.
        reading: finding: R^2 of what a linear probe reads off latents.
        evaluation: finding: results with their protocol, by name.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    image_size: int
    encoder: str
    encoder_hash: str
    model: ModelConfig
    spec: DataSpec
    readable: tuple[float, ...]
    near: float = 0.1
    hold: tuple[float, ...] | str | None = None
    action_names: tuple[str, ...] = ()
    proprio_names: tuple[str, ...] = ()
    fit: str = "stretch"
    choices: tuple[int, ...] = ()
    horizon: int = 5
    samples: int = 300
    iterations: int = 10
    training: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    probe: dict[str, Any] = field(default_factory=dict)
    familiar: dict[str, Any] = field(default_factory=dict)
    surprise: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    reading: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``: all but the findings."""
        fields = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.name not in FILES
        }
        return {
            name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
            for name, value in fields.items()
        }


def save_checkpoint(
    folder: str | Path,
    model: WorldModel,
    info: CheckpointInfo,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> None:
    """Write `model` and `info` to `folder`, completely or not at all. Findings that `info` lacks
    are removed, since they belong to an earlier model; other files are left alone.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    weights = {
        name: tensor.detach().to("cpu", getattr(torch, dtype)).contiguous()
        for name, tensor in model.state_dict().items()
    }
    files = {WEIGHTS: to_safetensors(weights), CONFIG: (to_json(info.config()) + "\n").encode()}
    for finding, file in FILES.items():
        content = getattr(info, finding)
        if content:
            files[file] = encode_finding(finding, content)
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o755)  # mkdtemp makes private folders; checkpoints are not secret
        for name, data in files.items():
            with open(temporary / name, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
        if not folder.exists():
            os.rename(temporary, folder)
        else:
            for name in FILES.values():
                if name not in files:
                    (folder / name).unlink(missing_ok=True)
            for name in files:
                os.replace(temporary / name, folder / name)
    except OSError as error:
        raise UserError(f"cannot write checkpoint {folder}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def load_checkpoint(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    weights: str | Path | None = None,
) -> tuple[WorldModel, Encoder, CheckpointInfo]:
    """The frozen world model in float32, its encoder, and its config and findings.

    Args:
        name_or_path: a bundled name (``"pusht"``), a folder, or a name on the Hub
            (``"hf:user/name"``).
        device: of the model and the encoder.
        weights: local weights for the encoder; default: the folder's own, or what its name finds.

    Raises:
        UserError: not found, damaged, of another format version, or the encoder found here is not
            the one the model was trained with.
    """
    from worldmodel.encoders.encoder import load_encoder

    folder = find_checkpoint(name_or_path)
    info = load_info(folder)
    model = WorldModel(info.model, info.spec)
    path = folder / WEIGHTS
    try:
        tensors = parse_safetensors(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): copy the checkpoint again") from None
    _check_tensors(model, tensors, path)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    model.eval().requires_grad_(False)
    own = [path for path in (folder / ENCODER).glob("*") if path.name != CONFIG]
    encoder = load_encoder(info.encoder, weights=weights or next(iter(own), None))
    if encoder.hash != info.encoder_hash:
        raise UserError(
            f"checkpoint {folder} was trained with encoder {info.encoder!r} of hash "
            f"{info.encoder_hash[:12]}, but the one found here has hash {encoder.hash[:12]}: "
            "use the encoder weights it was trained with, or train again"
        )
    return model.to(device), encoder.to(device), info


def keep_encoder(folder: str | Path, weights: str | Path) -> None:
    """Copy an encoder's local weights (a file, or a folder that pretraining writes) into a
    checkpoint, so that it loads without them.

    Raises:
        UserError: they cannot be read, or the folder cannot be written.
    """
    weights, target = Path(weights), Path(folder) / ENCODER
    files = [weights / WEIGHTS if weights.is_dir() else weights]
    files += [file for file in (files[0].with_name(CONFIG),) if file.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            atomic_write_bytes(target / file.name, file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot copy {weights} to {target}: {error.strerror or error}") from None


def record_evaluation(name_or_path: str | Path, name: str, result: dict[str, Any]) -> Path:
    """Add the result of an evaluation to a checkpoint's findings as `name`; returns the file.

    Raises:
        UserError: no such checkpoint, or it cannot be written.
    """
    earlier = read_findings(name_or_path).get("evaluation", {})
    return write_finding(name_or_path, "evaluation", {**earlier, name: result})


def load_info(name_or_path: str | Path) -> CheckpointInfo:
    """What ``config.json`` and the findings of a checkpoint say, checked.

    Raises:
        UserError: no such checkpoint, or a file is unreadable, incomplete or of another version.
    """
    path = find_checkpoint(name_or_path) / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy the checkpoint again") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {version!r}, this program reads {FORMAT_VERSION}: "
            "use the matching version of the program, or train again"
        )
    content.setdefault("fit", "stretch")  # not stored before there were other ways
    content.setdefault("choices", [])  # nor this before actions could be choices
    info: CheckpointInfo = _build(CheckpointInfo, content, path)
    channels, expected = len(info.readable), len(info.spec.proprio_mean)
    if channels != expected:
        raise UserError(
            f"{path}: readable has {channels} numbers, but proprioception has {expected}"
        )
    findings: dict[str, Any] = read_findings(name_or_path)
    return dataclasses.replace(info, **findings)


def _build(cls: Any, content: Any, path: Path) -> Any:
    """The dataclass `cls` from parsed JSON; nested dataclasses and tuples too."""
    hints = {name: hint for name, hint in typing.get_type_hints(cls).items() if name not in FILES}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected the keys of {cls.__name__}, not {content!r:.40}")
    missing = [name for name in hints if name not in content]
    unknown = [name for name in content if name not in hints]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
        raise UserError(f"{path} {what} (in {cls.__name__}): copy the checkpoint again")
    values: dict[str, Any] = {}
    for name, value in content.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            values[name] = _build(hint, value, path)
        else:
            values[name] = _value(hint, value, f"{path}: {name}")
    return cls(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    """A value of parsed JSON as the type `hint` asks; lists become tuples."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in kinds:
        origin = typing.get_origin(kind) or kind
        if origin is tuple and isinstance(value, list):
            inner = typing.get_args(kind)[0]  # numbers or names
            return tuple(inner(each) for each in value)
        if origin is typing.Literal:
            if value in typing.get_args(kind):
                return value
            raise UserError(
                f"{where} is {value!r:.40}, expected one of "
                f"{', '.join(map(repr, typing.get_args(kind)))}"
            )
        if isinstance(value, origin) or (origin is float and isinstance(value, int)):
            return value
    expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise UserError(f"{where} is {value!r:.40}, expected {expected}")


def _check_tensors(model: WorldModel, tensors: dict[str, torch.Tensor], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path} does not fit its {CONFIG}: tensor {name} is {found.get(name, 'missing')}, "
                f"expected {expected.get(name, 'none')}"
            )
        if not tensors[name].isfinite().all():
            raise UserError(f"{path}: tensor {name} holds NaN or infinity; the training diverged")
