"""Findings about a checkpoint: what commands measure after training, one file each.

    probe.safetensors      linear maps from latents to physical quantities (`worldmodel.probe`)
    familiar.safetensors   a sample of the training data (`worldmodel.familiar`)
    surprise.json          quantiles of the usual prediction errors (`worldmodel.surprise`)
    calibration.json       margins of guardrails (`worldmodel.calibrate`)
    reading.json           what can be read off latents (`worldmodel.train`)
    evaluation.json        results of `worldmodel.evaluate`, by name
    decoder.safetensors    a decoder of latents to images (`worldmodel.train_decoder`)

Findings about a bundled or downloaded checkpoint are written to the user's data folder, never into
the package or the download, and are read from there first. The environment variable WORLDMODEL_HOME
replaces that folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from worldmodel.cli import atomic_write_bytes
from worldmodel.encoders.weights import BUNDLED_FOLDER
from worldmodel.errors import UserError

CONFIG, WEIGHTS, ENCODER = "config.json", "model.safetensors", "encoder"
DECODER = "decoder.safetensors"
FILES = {
    "probe": "probe.safetensors",
    "familiar": "familiar.safetensors",
    "surprise": "surprise.json",
    "calibration": "calibration.json",
    "reading": "reading.json",
    "evaluation": "evaluation.json",
}
PARTS = (CONFIG, WEIGHTS, DECODER, *FILES.values(), f"{ENCODER}/*")  # of a checkpoint, as patterns
HEADER = "finding"  # key of a safetensors header: JSON of all that is no array


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The folder of a bundled checkpoint's name, of a path, or of a name on the Hub, ``hf:...``.

    Raises:
        UserError: it does not exist, or cannot be downloaded.
    """
    from worldmodel.models.hub import PREFIX, download_checkpoint  # which imports this module

    if str(name_or_path).startswith(PREFIX):
        return download_checkpoint(str(name_or_path))
    bundled = BUNDLED_FOLDER / str(name_or_path)
    if len(Path(name_or_path).parts) == 1 and (bundled / CONFIG).exists():
        return bundled
    folder = Path(name_or_path)
    if (folder / CONFIG).exists():
        return folder
    what = f"has no {CONFIG}" if folder.is_dir() else "does not exist"
    raise UserError(
        f"no checkpoint {str(name_or_path)!r}: that folder {what}; "
        f"bundled checkpoints are {', '.join(bundled_environments())}; "
        f"{PREFIX}USER/NAME is one on the Hugging Face Hub"
    )


def bundled_environments() -> dict[str, str]:
    """Names of the bundled checkpoints with the environment ids they are for; short names first."""
    found = {}
    for path in BUNDLED_FOLDER.glob(f"*/{CONFIG}"):
        env_id = json.loads(path.read_text(encoding="utf-8")).get("env_id")
        if env_id:  # encoders have none
            found[path.parent.name] = env_id
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def bundled_for(env_id: str) -> str:
    """Name of the bundled checkpoint for an environment; of several, the one of the shortest name.

    Raises:
        UserError: there is none.
    """
    bundled = bundled_environments()
    for name, known in bundled.items():
        if known == env_id.rpartition(":")[2]:
            return name
    raise UserError(
        f"no bundled checkpoint for {env_id!r}: give --checkpoint; bundled ones are for "
        f"{', '.join(sorted(set(bundled.values())))}"
    )


def user_folder() -> Path:
    """Where findings about bundled and downloaded checkpoints are written."""
    home = os.environ.get("WORLDMODEL_HOME") or platformdirs.user_data_dir("worldmodel")
    return Path(home) / "checkpoints"


def finding_path(name_or_path: str | Path, file: str) -> Path | None:
    """The path of a finding's `file`, None if there is none.

    Raises:
        UserError: no such checkpoint.
    """
    folder = find_checkpoint(name_or_path)
    candidates = [folder / file]
    if apart := _apart(folder):
        candidates.insert(0, apart / file)
    return next((path for path in candidates if path.exists()), None)


def writable_path(name_or_path: str | Path, file: str) -> Path:
    """The path to write a finding's `file` to; its folder exists then.

    Raises:
        UserError: no such checkpoint, or the folder cannot be made.
    """
    folder = find_checkpoint(name_or_path)
    if apart := _apart(folder):
        folder = apart
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make {folder}: {error.strerror or error}; set WORLDMODEL_HOME to a folder "
                "that is writable"
            ) from None
    return folder / file


def checkpoint_files(name_or_path: str | Path) -> dict[str, Path]:
    """The paths of all files of a checkpoint, by their names in its folder.

    Raises:
        UserError: no such checkpoint.
    """
    folder = find_checkpoint(name_or_path)
    own = {f"{ENCODER}/{path.name}": path for path in sorted((folder / ENCODER).glob("*"))}
    found = {file: finding_path(name_or_path, file) for file in PARTS}
    return {file: path for file, path in found.items() if path} | own


def write_finding(name_or_path: str | Path, finding: str, content: dict[str, Any]) -> Path:
    """Write a finding about a checkpoint, in place of an earlier one; returns the path of the file.

    Args:
        name_or_path: of the checkpoint.
        finding: "probe", "familiar", "surprise", "calibration", "reading" or "evaluation".
        content: what can be written as JSON, and tensors in the safetensors files.

    Raises:
        UserError: no such checkpoint, or the file cannot be written.
    """
    path = writable_path(name_or_path, FILES[finding])
    atomic_write_bytes(path, encode_finding(finding, content))
    return path


def encode_finding(finding: str, content: dict[str, Any]) -> bytes:
    """The bytes of a finding's file."""
    if FILES[finding].endswith(".json"):
        return (to_json(content) + "\n").encode()
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }
    rest = {name: value for name, value in content.items() if name not in tensors}
    return to_safetensors(tensors, {HEADER: json.dumps(rest)})


def read_findings(name_or_path: str | Path) -> dict[str, dict[str, Any]]:
    """All findings about a checkpoint, by name; those that do not exist are left out.

    Raises:
        UserError: no such checkpoint, or a file is damaged.
    """
    paths = {finding: finding_path(name_or_path, file) for finding, file in FILES.items()}
    return {finding: _read(path) for finding, path in paths.items() if path}


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".json":
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return content
        with safe_open(path, "pt") as file:
            rest = json.loads((file.metadata() or {})[HEADER])
            return {**rest, **{name: file.get_tensor(name) for name in file.keys()}}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it or write it again") from None


def to_json(content: Any, levels: int = 2, indent: str = "") -> str:
    """JSON with one line for each entry of the outer `levels` of dictionaries."""
    if not isinstance(content, dict) or not content or not levels:
        return json.dumps(content, allow_nan=False)
    inner = indent + "  "
    entries = [
        f"{inner}{json.dumps(key)}: {to_json(value, levels - 1, inner)}"
        for key, value in content.items()
    ]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def _apart(folder: Path) -> Path | None:
    """Where findings about a bundled or downloaded checkpoint are written; None for other folders,
    which hold theirs."""
    if folder.resolve().parent == BUNDLED_FOLDER.resolve():
        return user_folder() / folder.name
    if folder.parent.name == "snapshots":  # of the Hub's cache: models--USER--NAME/snapshots/COMMIT
        return user_folder() / folder.parents[1].name / folder.name
    return None
