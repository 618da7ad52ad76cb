"""All that is known about a model, on one HTML page.

    python -m worldmodel.report --run runs/pusht --out report.html

The page shows training curves, success, guardrails, probes, prediction errors and animations: those
of the run and its checkpoint, and those in the files that other commands wrote with ``--out``. For
a missing result it names the command that makes it. The page loads nothing: plots are SVG,
animations GIF, both within the page, and it has no script.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worldmodel.models.checkpoint import CheckpointInfo, load_info
from worldmodel.models.decoder import how_trained
from worldmodel.models.findings import BUNDLED_FOLDER, CONFIG, DECODER, find_checkpoint
from worldmodel.studies.report.about import checkpoint_facts, configuration_section
from worldmodel.studies.report.animations import animation_section
from worldmodel.studies.report.blocks import Heading, ReportBlock
from worldmodel.studies.report.imagination import imagination_section
from worldmodel.studies.report.page import render_report
from worldmodel.studies.report.probes import probe_blocks, stored_probe_blocks
from worldmodel.studies.report.sources import check_env, read_result, written_by
from worldmodel.studies.report.success import StoredEvaluation, success_section
from worldmodel.studies.report.surprise import disturbance_blocks, usual_error_blocks
from worldmodel.studies.report.training import training_section


@dataclass(frozen=True)
class ReportConfig:
    """What to show."""

    run: str
    """Folder of a training run, or a checkpoint: bundled name, folder or hf:USER/NAME."""
    out: Path = Path("report.html")
    """HTML file to write."""
    evaluation: list[str] = field(default_factory=list)
    """Another result of `evaluate --out`; may be given again."""
    probe: Path | None = None
    """Result of `worldmodel.probe --out`."""
    disturbances: Path | None = None
    """Result of `worldmodel.studies disturbances`."""
    gifs: list[str] = field(default_factory=list)
    """Folder with animations, of `plan --out` or `evaluate --failures`; may be given again."""


class Commands:
    """The commands that make the results of a checkpoint."""

    def __init__(self, name: str, env_id: str) -> None:
        python, checkpoint = "python -m worldmodel.", shlex.quote(name)
        env = f"--env {shlex.quote(env_id)} --checkpoint {checkpoint}"
        probe = f"{python}probe --data DATA --checkpoints {checkpoint}"
        self.train = f"{python}train --config CONFIG.yaml --out RUN"
        self.evaluate = f"{python}evaluate {env} --record NAME"
        self.probe = f"{probe} --out probe.json"
        self.store_probe = f'{probe} --encoders "" --save true'
        self.decoder = f"{python}train_decoder --data DATA --checkpoint {checkpoint}"
        self.surprise = f"{python}surprise {env}"
        self.disturbances = f"{python}studies disturbances {env} --out disturbances.json"
        self.plan = f"plan {env} --goal GOAL.png --out FOLDER"
        self.failures = f"{python}evaluate {env} --failures FOLDER"


def report(config: ReportConfig) -> str:
    """The page as HTML.

    Raises:
        UserError: a file is missing or damaged, or another command wrote it.
    """
    folder = find_run(config.run)
    info, where = load_info(folder), folder / CONFIG
    name = config.run if folder.parent == BUNDLED_FOLDER else str(folder)
    commands = Commands(name, info.env_id)
    with written_by("evaluate --record", f"evaluation in {where}"):
        own_names = [config.run, name, *(e["checkpoint"] for e in info.evaluation.values())]
    evaluations = read_evaluations(config, info, where)

    sections: dict[str, Sequence[ReportBlock]] = {}
    metrics = folder.parent / "metrics.jsonl"
    with written_by("worldmodel.train", str(metrics)):
        sections["Training"] = training_section(metrics, commands.train)
    sections["Success"] = success_section(evaluations, own_names, commands.evaluate)
    with written_by("worldmodel.probe --out", str(config.probe)):
        probes = probe_blocks(config.probe, commands.probe)
    with written_by("worldmodel.probe --save", f"probe in {where}"):
        stored = stored_probe_blocks(info.probe, commands.store_probe)
    sections["Probes"] = [*probes, Heading("The stored probe"), *stored]
    with written_by("worldmodel.train_decoder", str(folder / DECODER)):
        sections["Imagination"] = imagination_section(how_trained(folder), commands.decoder)
    with written_by("worldmodel.surprise", f"surprise in {where}"):
        usual = usual_error_blocks(info.surprise, commands.surprise)
    with written_by("worldmodel.studies disturbances", str(config.disturbances)):
        detected = disturbance_blocks(config.disturbances, info, commands.disturbances)
    sections["Surprise"] = [*usual, Heading("Disturbances"), *detected]
    folders = [Path(folder) for folder in config.gifs]
    sections["Animations"] = animation_section(folders, commands.plan, commands.failures)
    sections["Configuration"] = configuration_section(info)

    title = f"{config.run}: a world model of {info.env_id}"
    return render_report(title, checkpoint_facts(config.run, folder, info), sections)


def find_run(run: str) -> Path:
    """The checkpoint folder of a bundled name, a training run's folder or its own path.

    Raises:
        UserError: there is none.
    """
    bundled = len(Path(run).parts) == 1 and (BUNDLED_FOLDER / run / CONFIG).exists()
    inside = Path(run) / "checkpoint"
    return inside if not bundled and (inside / CONFIG).exists() else find_checkpoint(run)


def read_evaluations(
    config: ReportConfig, info: CheckpointInfo, where: Path
) -> list[StoredEvaluation]:
    """The evaluations stored with the checkpoint, and those in files.

    Raises:
        UserError: a file cannot be read, or is about another environment.
    """
    stored = info.evaluation.items()
    found = {name: StoredEvaluation(name, f"{name} in {where}", result) for name, result in stored}
    for path in map(Path, config.evaluation):
        result = read_result(path)
        with written_by("evaluate --out", str(path)):
            check_env(info, result, path)
        name = str(path) if path.stem in found else path.stem
        found[name] = StoredEvaluation(name, str(path), result)
    return list(found.values())
