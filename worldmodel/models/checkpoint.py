"""Checkpoints: a folder with ``model.safetensors`` and ``config.json``, all that planning needs;
and ``encoder/``, where the encoder was a local file."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors

from worldmodel.cli import atomic_write_bytes, atomic_write_json
from worldmodel.errors import UserError
from worldmodel.models.world_model import DataSpec, ModelConfig, WorldModel

if TYPE_CHECKING:
    from worldmodel.encoders.encoder import Encoder

FORMAT_VERSION = 1
ADDED = {"activation"}  # to files of this version, with a default
WEIGHTS, CONFIG, ENCODER = "model.safetensors", "config.json", "encoder"
BUNDLED_FOLDER = Path(__file__).parents[1] / "checkpoints"
BUNDLED = {
    "worldmodel/PushT-v0": "pusht",
    "worldmodel/Maze-v0": "maze",
    "worldmodel/GranularChips-v0": "chips",
}


@dataclass(frozen=True)
class CheckpointInfo:
    """What ``config.json`` says.

    Attributes:
        env_id: Gymnasium id of the environment the data came from.
        env_kwargs: how that environment was made.
        image_size: side of the recorded pixels.
        encoder: name for `worldmodel.encoder.load_encoder`.
        encoder_hash: of the encoder's weights and preprocessing.
        model: sizes of the world model.
        spec: what the world model is fed, with its statistics.
        readable: share of the variance of each number of proprio that the model reads off a single
            held-out image, from 0 (velocities, for instance) to 1.
        horizon: model steps to imagine when planning, T.
        samples: candidates per iteration that suffice planners that sample: all but the gradient
            planner, which has its own default.
        iterations: as many as suffice them.
        proprio_names: of the numbers of proprio, where the data says.
        probe: what `worldmodel.probe --save` found: how to read ``names`` off latents, linearly
            (``weights``), and how well.
        calibration: margins of guardrails, by `worldmodel.calibrate`, under a hash of all that they
            depend on.
        familiar: frames that its data showed, by `worldmodel.familiar`.
        surprise: how large the errors of what is expected usually are, by `worldmodel.surprise`.
        training: data, steps, minutes, seed.
        evaluation: success figures together with their protocol.
        format_version: of this file.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    image_size: int
    encoder: str
    encoder_hash: str
    model: ModelConfig
    spec: DataSpec
    readable: tuple[float, ...]
    horizon: int = 5
    samples: int = 300
    iterations: int = 10
    proprio_names: tuple[str, ...] = ()
    probe: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    familiar: dict[str, Any] = field(default_factory=dict)
    surprise: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def save_checkpoint(
    folder: str | Path,
    model: WorldModel,
    info: CheckpointInfo,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> None:
    """Write `model` and `info` to `folder`: complete or not at all; other files in it are left.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    weights = {
        name: tensor.detach().to("cpu", getattr(torch, dtype)).contiguous()
        for name, tensor in model.state_dict().items()
    }
    config = json.dumps(dataclasses.asdict(info), indent=2, allow_nan=False) + "\n"
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o755)  # mkdtemp makes private folders; checkpoints are not secret
        for name, content in ((WEIGHTS, to_safetensors(weights)), (CONFIG, config.encode())):
            with open(temporary / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if not folder.exists():
            os.rename(temporary, folder)
        else:
            for name in (WEIGHTS, CONFIG):
                os.replace(temporary / name, folder / name)
    except OSError as error:
        raise UserError(f"cannot write checkpoint {folder}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def load_checkpoint(
    name_or_path: str | Path, weights: str | Path | None = None
) -> tuple[WorldModel, Encoder, CheckpointInfo]:
    """The frozen world model in float32, its encoder, and what is known about them.

    Args:
        name_or_path: a bundled name (``"pusht"``) or a folder.
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
        raise UserError(
            f"{path} is damaged or cut short ({error}): copy the checkpoint again"
        ) from None
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
    return model, encoder, info


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The folder of a bundled checkpoint's name, or of a path.

    Raises:
        UserError: neither exists.
    """
    bundled = BUNDLED_FOLDER / str(name_or_path)
    if len(Path(name_or_path).parts) == 1 and (bundled / CONFIG).exists():
        return bundled
    folder = Path(name_or_path)
    if (folder / CONFIG).exists():
        return folder
    names = [name for name in BUNDLED.values() if (BUNDLED_FOLDER / name / CONFIG).exists()]
    what = f"has no {CONFIG}" if folder.is_dir() else "does not exist"
    raise UserError(
        f"no checkpoint {str(name_or_path)!r}: that folder {what}; "
        f"bundled checkpoints are {', '.join(names) or 'none yet: train one first'}"
    )


def keep_encoder(folder: str | Path, weights: str | Path) -> None:
    """Copy an encoder's local weights, a file or what pretraining exports, into a checkpoint, so
    that it can be loaded without them.

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
        raise UserError(f"cannot keep {weights} in {target}: {error.strerror or error}") from None


def record_evaluation(name_or_path: str | Path, name: str, result: dict[str, Any]) -> None:
    """Keep the result of an evaluation in the checkpoint's ``config.json``, under ``name``.

    Raises:
        UserError: no such checkpoint, or it cannot be written.
    """
    info = load_info(find_checkpoint(name_or_path))
    record(name_or_path, evaluation={**info.evaluation, name: result})


def record(name_or_path: str | Path, **fields: Any) -> None:
    """Replace fields of what a checkpoint's ``config.json`` says.

    Raises:
        UserError: no such checkpoint, or it cannot be written.
    """
    folder = find_checkpoint(name_or_path)
    info = dataclasses.replace(load_info(folder), **fields)
    atomic_write_json(folder / CONFIG, dataclasses.asdict(info))


def bundled_for(env_id: str) -> str:
    """Name of the bundled checkpoint for an environment, as ``worldmodel/PushT-v0`` -> ``pusht``.

    Raises:
        UserError: there is none.
    """
    name = BUNDLED.get(env_id.rpartition(":")[2])
    if name is None:
        raise UserError(
            f"no bundled checkpoint for {env_id!r}: give --checkpoint; bundled ones are for "
            f"{', '.join(BUNDLED)}"
        )
    return name


def load_info(folder: Path) -> CheckpointInfo:
    """``config.json`` of a checkpoint folder, checked.

    Raises:
        UserError: unreadable, incomplete, or of another format version.
    """
    path = folder / CONFIG
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
    info: CheckpointInfo = _build(CheckpointInfo, content, path)
    known, width = len(info.readable), len(info.spec.proprio_mean)
    if known != width:
        raise UserError(f"{path}: readable has {known} numbers, but proprio has {width}")
    return info


def _build(cls: Any, content: Any, path: Path) -> Any:
    """The dataclass `cls` from parsed JSON; nested dataclasses and tuples too."""
    hints = typing.get_type_hints(cls)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected the keys of {cls.__name__}, not {content!r:.40}")
    # What is found out later, such as calibrations, may not have been; and older files lack some.
    later = {each.name for each in dataclasses.fields(cls) if each.default_factory is dict}
    later |= ADDED
    missing = [name for name in hints if name not in content and name not in later]
    unknown = [name for name in content if name not in hints]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
        raise UserError(f"{path} {what} (in {cls.__name__}): copy the checkpoint again")
    values: dict[str, Any] = {}
    for name in content:
        hint, value = hints[name], content[name]
        expected = typing.get_origin(hint) or hint
        if dataclasses.is_dataclass(hint):
            value = _build(hint, value, path)
        elif expected is tuple and isinstance(value, list):
            inner = typing.get_args(hint)[0]  # numbers or names
            value = tuple(inner(each) for each in value)
        elif expected is typing.Literal:
            if value not in typing.get_args(hint):
                choices = ", ".join(map(repr, typing.get_args(hint)))
                raise UserError(f"{path}: {name} is {value!r:.40}, expected one of {choices}")
        elif not isinstance(value, expected):
            raise UserError(f"{path}: {name} is {value!r:.40}, expected {expected.__name__}")
        values[name] = value
    return cls(**values)


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
