"""Description of an export: ``export.json`` for programs, ``README.md`` for people."""

from __future__ import annotations

from typing import Any

import jinja2
import torch

from worldmodel.deploy.checking import BATCHES, TOLERANCE
from worldmodel.deploy.programs import Program
from worldmodel.models.checkpoint import CheckpointInfo

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("worldmodel.deploy"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)  # Markdown, so no escaping


def describe(
    checkpoint: str,
    info: CheckpointInfo,
    about: str,
    precision: str,
    device: str,
    parts: list[Program],
    differences: list[dict[str, Any]],
) -> dict[str, Any]:
    """The content of ``export.json``.

    Args:
        checkpoint: bundled name, folder or hf:USER/NAME.
        info: the checkpoint's.
        about: description of the environment by its authors, units above all.
        precision: float32 or bfloat16.
        device: the device that the programs run on.
        parts: the programs.
        differences: as `check` returns them.
    """
    return {
        "checkpoint": checkpoint,
        "env_id": info.env_id,
        "env_kwargs": info.env_kwargs,
        "env_about": about,
        "torch": torch.__version__,
        "precision": precision,
        "device": device,
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
        "tolerance": TOLERANCE[precision],
        "batches": BATCHES,
        "differences": differences,
    }


def guide(description: dict[str, Any]) -> str:
    """The content of ``README.md``."""
    low, high = (
        [float(f"{x:.6g}") for x in description[name]] for name in ("action_low", "action_high")
    )
    onnx = any(row["file"].endswith(".onnx") for row in description["differences"])
    template = TEMPLATES.get_template("README.md.jinja")
    table = difference_table(description["differences"])
    return template.render(
        **description,
        low=low,
        high=high,
        onnx=onnx,
        table=table,
        hold="zeros, or the bound nearest to 0,",
    )


def difference_table(differences: list[dict[str, Any]]) -> str:
    """The largest differences as Markdown."""
    kinds = [kind for kind in differences[0] if kind != "file"]
    head = "".join(f" {kind}: absolute | relative |" for kind in kinds)
    rows = [f"| file |{head}", "|---" * (1 + 2 * len(kinds)) + "|"]
    for row in differences:
        cells = "".join(f" {row[k]['absolute']:.1e} | {row[k]['relative']:.1e} |" for k in kinds)
        rows.append(f"| {row['file']} |{cells}")
    return "\n".join(rows)
