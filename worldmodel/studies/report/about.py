"""The table at the top of the page, and the section with the configuration."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors

from worldmodel.errors import UserError
from worldmodel.models.checkpoint import WEIGHTS, CheckpointInfo
from worldmodel.models.findings import CONFIG
from worldmodel.models.summary import model_facts
from worldmodel.studies.report.blocks import Listing, ReportBlock

LONG = 16  # entries of a list that are shown


def checkpoint_facts(run: str, folder: Path, info: CheckpointInfo) -> dict[str, str]:
    """What the checkpoint is, and what made the page.

    Raises:
        UserError: the weights are unreadable.
    """
    path = folder / WEIGHTS
    try:
        weights = path.read_bytes()
        parameters = sum(tensor.numel() for tensor in parse_safetensors(weights).values())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or cut short ({error}): copy it again") from None
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "mujoco", "numpy")
    ]
    return {
        "checkpoint": f"{run} ({parameters:,} parameters)",
        f"sha256 of {WEIGHTS}": hashlib.sha256(weights).hexdigest(),
        "hash of the encoder": info.encoder_hash,
        **model_facts(info),
        "this page": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}, Python "
        f"{platform.python_version()}, {', '.join(versions)}",
    }


def configuration_section(info: CheckpointInfo) -> list[ReportBlock]:
    """All of config.json, folded; long lists are cut."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            more = [f"... {len(value)} in all"] if len(value) > LONG else []
            return [cut(each) for each in value[:LONG]] + more
        return value

    text = yaml.safe_dump(cut(info.config()), sort_keys=False, default_flow_style=None, width=100)
    return [Listing(f"All of {CONFIG}, with the first {LONG} entries of long lists", text)]
