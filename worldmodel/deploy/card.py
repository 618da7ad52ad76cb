"""The model card of a checkpoint: a README with a header for the Hugging Face Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from worldmodel.deploy.guide import TEMPLATES
from worldmodel.errors import UserError
from worldmodel.measure.tables import metrics_table, success_table
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.findings import WEIGHTS, find_checkpoint
from worldmodel.models.hub import PREFIX
from worldmodel.models.summary import summary_lines
from worldmodel.studies.report.sources import read_result, written_by

TAGS = ["world-model", "robotics", "planning", "model-predictive-control"]


def model_card(
    checkpoint: str,
    info: CheckpointInfo,
    repository: str,
    license: str,
    results: Sequence[Path],
) -> str:
    """The content of a model card.

    Args:
        checkpoint: bundled name, folder or hf:USER/NAME.
        info: the checkpoint's.
        repository: where it is uploaded to, USER/NAME.
        license: identifier on the Hub, or "".
        results: files that ``evaluate --out`` wrote about this checkpoint.

    Raises:
        UserError: a file is no such result, or is about another checkpoint.
    """
    folder = find_checkpoint(checkpoint)
    header = {
        **({"license": license} if license else {}),
        "library_name": "worldmodel",
        "pipeline_tag": "robotics",
        "tags": TAGS,
    }
    return TEMPLATES.get_template("card.md.jinja").render(
        header=yaml.safe_dump(header, sort_keys=False),
        repository=repository,
        name=PREFIX + repository,
        info=info,
        weights=WEIGHTS,
        sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        summary="\n".join(summary_lines(folder, info)),
        results=[_evaluation(path, checkpoint, folder) for path in results],
    )


def _evaluation(path: Path, checkpoint: str, folder: Path) -> dict[str, Any]:
    """The tables of a result, and where it comes from."""
    result = read_result(path)
    with written_by("evaluate --out", str(path)):
        evaluated = result["checkpoint"]
        if evaluated != checkpoint and Path(evaluated).resolve() != folder.resolve():
            raise UserError(f"{path} is about checkpoint {evaluated}, not {checkpoint}")
        return {
            **result["provenance"],
            "success": success_table([result]),
            "metrics": metrics_table([result]) if result["env_metrics"] else "",
        }
