"""What is known of a model, on one HTML page that opens anywhere.

    python -m worldmodel.report --run runs/pusht --out report.html

Training curves, success, guardrails, probes, surprise and animations: those that the run or its
checkpoint holds, and those in the files that other commands wrote with `--out`. What is not there
is named, with the command that makes it. Nothing is fetched: plots are SVG, animations GIF, both
within the page, which has no script.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors

from worldmodel.cli import atomic_write_text, parse_config
from worldmodel.cli import run as run_command
from worldmodel.control.surprise import ERROR_NAMES
from worldmodel.errors import UserError
from worldmodel.measure.environments import same_env
from worldmodel.measure.evaluation_table import search_label
from worldmodel.measure.film import ALARM as BLUE
from worldmodel.measure.film import WARNING as VERMILION
from worldmodel.measure.statistics import in_percent
from worldmodel.models.checkpoint import (
    BUNDLED_FOLDER,
    CONFIG,
    WEIGHTS,
    CheckpointInfo,
    find_checkpoint,
    load_info,
)
from worldmodel.models.decoder import how_trained
from worldmodel.models.findings import DECODER
from worldmodel.studies.page import assemble, missing, picture, plain, plot, table

LOOKS = ((VERMILION, "o"), (BLUE, "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"))
LOWEST = -0.5  # R^2, below which one useless probe is like another
LARGE = 50e6  # bytes


@dataclass(frozen=True)
class ReportConfig:
    """What to put on the page."""

    run: str
    """Folder that worldmodel.train wrote, or a checkpoint: bundled name or folder."""
    out: Path = Path("report.html")
    """HTML file to write."""
    evaluation: list[str] = field(default_factory=list)
    """Further result of `evaluate --out`; may be given again."""
    probe: Path | None = None
    """Result of `worldmodel.probe --out`."""
    disturbances: Path | None = None
    """Result of `worldmodel.studies disturbances`."""
    gifs: list[str] = field(default_factory=list)
    """Folder with animations, of `plan --out` or `evaluate --failures`; may be given again."""


# ------------------------------------------------------------------------------------------ files
def find_run(run: str) -> Path:
    """The checkpoint's folder, of a bundled name, a training run's folder or its own path.

    Raises:
        UserError: there is none.
    """
    bundled = len(Path(run).parts) == 1 and (BUNDLED_FOLDER / run / CONFIG).exists()
    inside = Path(run) / "checkpoint"
    return inside if not bundled and (inside / CONFIG).exists() else find_checkpoint(run)


def read_text(path: Path) -> str:
    """The text of a file, or a UserError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): make it again") from None


def parse_json(text: str, where: str) -> dict[str, Any]:
    """An object out of JSON, or a UserError that says `where` it stands."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}): make it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{where} holds {content!r:.40}, not an object: is it the right file?")
    return content


@contextlib.contextmanager
def written_by(command: str, where: str) -> Iterator[None]:
    """What lacks something, or has it in another form, was not written by `command`: UserError."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{where} is not what {command} writes: {said}") from error


def check_env(info: CheckpointInfo, found: dict[str, Any], where: Path) -> None:
    """Raise UserError where a result is about another environment than the checkpoint."""
    if not same_env(found["env"], info.env_id):
        raise UserError(f"{where} is about {found['env']}, but the checkpoint is for {info.env_id}")


# ------------------------------------------------------------------------------- rates and means
def share(r: dict[str, float]) -> str:
    """A rate, or mean of shares, in per cent with its interval; it can be broken in one place."""
    return in_percent(r).replace(" ", "\xa0").replace("\xa0(", " (")


def mean(r: dict[str, float]) -> str:
    """A mean with its interval."""
    return f"{r['mean']:.2f} ({r['low']:.2f}\xa0to\xa0{r['high']:.2f})"


# --------------------------------------------------------------------------------------- training
def training(path: Path, command: str) -> str:
    """Curves of metrics.jsonl, and the last validation as a table."""
    if not path.exists():
        return missing("No metrics.jsonl came with this checkpoint: no curves.", command)
    lines = enumerate(read_text(path).splitlines(), 1)
    rows = [parse_json(line, f"line {n} of {path}") for n, line in lines if line.strip()]
    if not rows:
        return missing("metrics.jsonl is empty: no step was trained yet.", command)
    page = picture(
        "image/svg+xml",
        plot(10, 5.6, lambda figure: draw_training(figure, rows)),
        "Six plots: loss, errors in training, held-out error over steps and by depth, learning "
        "rate and speed",
        f"Training to step {rows[-1]['step']}. Errors of latents are shares of their spread, those "
        "of proprio of its variance; who copies expects that nothing changes.",
    )
    last = next((row for row in reversed(rows) if "val_error" in row), None)
    if last is None:
        return page + missing("It was not validated yet, which happens every validate_every steps.")
    names = {"val_error": "imagined latents", "val_copy": "copying the last frame"}
    names |= {"val_proprio": "imagined proprio"}
    errors = [[name, *(f"{e:.4f}" for e in last[k])] for k, name in names.items() if k in last]
    head = ["", *map(str, range(1, len(last["val_error"]) + 1))]
    return page + table(f"Held-out error at step {last['step']} by model steps ahead", head, errors)


def draw_training(figure: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Six panels."""
    axes = figure.subplots(2, 3).ravel()

    def line(at: int, key: str, depth: int = 0, **looks: Any) -> None:
        found = [(row["step"], row[key]) for row in rows if key in row]
        values = [float(y[depth] if isinstance(y, list) else y) for _, y in found]
        axes[at].plot([float(x) for x, _ in found], values, **looks)

    line(0, "loss", color=VERMILION)
    line(1, "predict", color=VERMILION, label="latents")
    line(1, "proprio", color=BLUE, ls="--", label="proprio")
    checked = [row for row in rows if "val_error" in row]
    deepest = len(checked[-1]["val_error"]) if checked else 0
    for depth, marker in {1: "o", deepest: "s"}.items() if checked else ():
        for key, name, colour, dash in (
            ("val_error", "imagined", VERMILION, "-"),
            ("val_copy", "copied", BLUE, "--"),
        ):
            looks = {"color": colour, "ls": dash, "marker": marker, "ms": 3}
            line(2, key, depth - 1, label=f"{name}, {depth}", **looks)
    if checked:
        depths, last = range(1, deepest + 1), checked[-1]
        axes[3].plot(depths, last["val_error"], "o-", ms=4, color=VERMILION, label="imagined")
        axes[3].plot(depths, last["val_copy"], "s--", ms=4, color=BLUE, label="copied")
        axes[3].set_xticks(depths)
    line(4, "lr", color=VERMILION)
    line(5, "samples_per_s", color=VERMILION)
    titles = ["loss", "errors in training", "held-out error, steps ahead"]
    titles += ["held-out error at the end", "learning rate", "samples per second"]
    for at, (panel, title) in enumerate(zip(axes, titles, strict=True)):
        panel.set(title=title, xlabel="model steps ahead" if at == 3 else "step")
        values = [y for drawn in panel.lines for y in drawn.get_ydata() if math.isfinite(y)]
        if at < 3 and values and min(values) > 0:
            panel.set_yscale("log")
            low, high = panel.get_ylim()
            panel.set_ylim(top=high * (high / low) ** (0.4 if at == 2 else 0))  # for the legend
        elif values:
            panel.set_ylim(bottom=min(0, *values))
        if at in (1, 2, 3) and values:
            panel.legend(fontsize=8, ncols=2 if at == 2 else 1)


# ---------------------------------------------------------------------------------------- success
Rows = list[list[object]]


def success(found: dict[str, tuple[str, dict[str, Any]]], ours: Sequence[str], make: str) -> str:
    """Tables of evaluations: name -> where it is from, and what it says. `ours`: what this
    checkpoint is called in them."""
    if not found:
        return missing("No evaluation was recorded or given, so nothing is known of success.", make)
    rates: Rows = []
    chamfer: Rows = []
    rails: Rows = []
    alarms: Rows = []
    times: Rows = []
    for name, (where, result) in found.items():
        with written_by("evaluate --out", where):
            settings, metrics, who = result["settings"], result["env_metrics"], parties(result)
            rates.append([f"{name}\n{protocol(result, ours)}"])
            for prefix, (label, n, *both) in who.items():
                rates.append([label, n, *map(share, both)])
                if f"{prefix}block_success_any" in metrics:
                    both = [metrics[f"{prefix}block_success_{at}"] for at in ("any", "final")]
                    rates.append([f"{label}: block only", n, *map(share, both)])
                if f"{prefix}chamfer_final" in metrics:
                    both = [metrics[f"{prefix}chamfer_{at}"] for at in ("start", "final")]
                    chamfer += [] if prefix else [[name]]
                    chamfer.append([label, n, *map(mean, both)])
            if "guardrails" in result:
                rules = "; ".join([*settings["agent"]["guardrails"], *settings.get("judged", [])])
                without = ", planned without them" if settings["unguarded"] else ""
                rails.append([f"{name}\n{rules}{without}"])
                rails.append([who[""][0], *kept(result["guardrails"])])
            if "guardrails" in (result["ceiling"] or {}):
                rails.append([who["ceiling_"][0], *kept(result["ceiling"]["guardrails"])])
            if "alarms" in result:
                both = [result["alarms"][per] for per in ("per_step", "per_episode")]
                alarms.append([name, f"{settings['agent']['alarm']:g}", *map(share, both)])
            ms = [result["plan_ms"]["p50"], result["plan_ms"]["p99"], result["encode_ms"]["p50"]]
            counts = [result["model_calls_per_plan"], settings["threads"]]
            alike = (result["ceiling"] or {}).get("rank_correlation")
            times.append([name, *(f"{t:.1f}" for t in ms), *counts, mean(alike) if alike else ""])
    head = ("", "episodes", "at any time", "at the end")
    page = table("Success, with Wilson 95 % intervals", head, rates)
    if chamfer:
        head = ("", "episodes", "at the start", "at the end")
        page += table("Chamfer distance in chip widths, bootstrap 95 % intervals", head, chamfer)
    page += "<h3>Guardrails</h3>\n"
    if rails:
        what = "Guardrails, by true states; worst depth below 0: how far all stayed away"
        page += table(what, ["", *KEPT], rails)
    else:
        page += missing("No evaluation here had guardrails.", f"{make} --guardrail RULE")
    if alarms:
        head = ("", "p-value below", "of steps", "of episodes")
        page += table("Surprised during evaluations", head, alarms)
    what = "One plan for one episode, in milliseconds, and how alike model and simulator rank plans"
    columns = ("", "p50", "p99", "encoding", "model steps", "threads", "rank correlation")
    return f"{page}<h3>Time</h3>\n{table(what, columns, times)}"


def parties(result: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Who worked on the tasks, under the prefix of their metrics: label, episodes, success at any
    time and at the end."""
    settings = result["settings"]
    label = f"{result['planner']} {search_label(settings['agent'])}"
    who = {"": (label, result["episodes"], result["success_any"], result["success_final"])}
    if floor := result["random"]:
        who["random_"] = ("random actions", floor["episodes"], floor, floor["final"])
    if top := result["ceiling"]:
        label = f"{top['planner']} {top['samples']} x {top['iterations']}, true simulator"
        label += ", the model's cost" if top["cost"] == "latents" else ""
        who["ceiling_"] = (label, top["episodes"], top, top["final"])
    return who


def protocol(result: dict[str, Any], ours: Sequence[str]) -> str:
    """How an evaluation was made, in words."""
    settings, first, seeds = result["settings"], result["seed"], result["seeds"]
    offset, rules = result["goal_offset"], settings["agent"]["guardrails"]
    said = [f"{result['budget_steps']} steps"]
    said.append(f"goals {offset} steps ahead" if offset else "random goals")
    said += [f"{key} {value}" for key, value in settings["env_kwargs"].items()]
    said += [f"changed {' and '.join(result['variation'])}"] if result["variation"] else []
    said += [f"guardrails{' for the tasks only' if settings['unguarded'] else ''}"] if rules else []
    said += ["only tasks whose straight way breaks them"] if settings.get("across") else []
    said += [f"checkpoint {result['checkpoint']}"] if result["checkpoint"] not in ours else []
    each = ", ".join(f"{100 * rate:.1f}" for rate in result["per_seed"]["success_any"])
    several = f"seeds {first} to {first + seeds - 1}, each at any time: {each} %"
    return "; ".join([*said, f"seed {first}" if seeds == 1 else several])


KEPT = ["episodes in breach", "steps in breach", "success without a breach, at any time"]
KEPT += ["the same, at the end", "worst depth", "steps without a plan", "steps not as planned"]
KEPT += ["margin: episodes it covered"]


def kept(rails: dict[str, Any]) -> list[str]:
    """How guardrails were kept: the columns of KEPT."""
    depths, several = rails["worst_depth"], len(rails["worst_depth"]) > 1
    shares = ("violation_per_episode", "violation_per_step", "safe_success", "safe_success_final")
    return [
        *(share(rails[key]) for key in shares),
        "; ".join(f"{d:+.3g}{f' of {rule}' if several else ''}" for rule, d in depths.items()),
        *(share(rails[key]) if key in rails else "" for key in ("stop_rate", "intervention_rate")),
        "; ".join(f"{each['margin']:.4f}: {share(each)}" for each in rails.get("covered", [])),
    ]


# ----------------------------------------------------------------------------------------- probes
def probes(path: Path | None, make: str) -> str:
    """Plot and tables of what probes read."""
    if path is None:
        return missing("No result of probes was given (--probe probe.json).", make)
    rows = parse_json(read_text(path), str(path))["results"]
    if not rows:
        raise ValueError("its results are empty")
    lines = len({row["encoder"] for row in rows})
    page = picture(
        "image/svg+xml",
        plot(9, 1.1 + 0.24 * lines, lambda figure: draw_probes(figure, rows)),
        "R^2 of each probe of each thing that is read; the table has the numbers",
        "R^2 on held-out episodes: the mean over targets, and a stroke for each of them. 1 is "
        "perfect, 0 no better than the mean.",
    )
    for key, what, digits in (("r2", "R^2", 3), ("mean_error", "Mean absolute error", 4)):
        some = [row for row in rows if isinstance(row.get(key), dict)]
        names = list(dict.fromkeys(name for row in some for name in row[key]))
        cells: Rows = []
        for row in some:
            found = {**row[key], "mean": sum(row[key].values()) / len(row[key])}
            columns = [*names, "mean"] if key == "r2" else names  # errors differ in units
            shown = [f"{found[n]:.{digits}f}" if n in found else "" for n in columns]
            cells.append([row["encoder"], row["probe"], *shown])
        if cells:
            head = ["what is read", "probe", *columns]
            what = f"{what} on held-out episodes, from {path.name}"
            page += table(what, head, cells, text=2, fold=24)
    return page


def draw_probes(figure: Any, rows: Sequence[dict[str, Any]]) -> None:
    """A line for each thing that is read, a colour for each kind of probe."""
    axes = figure.subplots()
    names = list(dict.fromkeys(row["encoder"] for row in rows))
    kinds = list(dict.fromkeys(row["probe"] for row in rows))
    for at, kind in enumerate(kinds):
        colour, marker = LOOKS[at % len(LOOKS)]
        points = []
        for row in rows:
            if row["probe"] == kind:
                r2 = [max(LOWEST, value) for value in row["r2"].values()]
                height = names.index(row["encoder"]) + 0.5 * ((at + 0.5) / len(kinds) - 0.5)
                axes.plot(r2, [height] * len(r2), "|-", color=colour, lw=0.5, ms=5)
                points.append((sum(r2) / len(r2), height))
        axes.plot(*zip(*points, strict=True), marker, color=colour, ms=4.5, label=plain(kind))
    axes.axvline(0, color="#666666", lw=0.8)
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=f"R^2; what is below {LOWEST} counts as that")
    figure.legend(loc="outside upper right", ncols=len(kinds))


def kept_probe(probe: dict[str, Any], make: str) -> str:
    """What the probe that is kept with the checkpoint misses, by depth."""
    if not probe:
        return missing("No probe is kept with this checkpoint.", make)
    means, highs, names = probe["errors"]["mean"], probe["errors"]["p95"], probe["names"]
    depths = range(len(means[names[0]]))
    lines = -(-len(names) // 3)

    def draw(figure: Any) -> None:
        axes = figure.subplots(lines, 3, squeeze=False).ravel()
        for name, panel in zip(names, axes, strict=False):
            panel.plot(depths, means[name], "o-", ms=3, color=VERMILION, label="mean")
            panel.plot(depths, highs[name], "s--", ms=3, color=BLUE, label="95 %")
            panel.set(title=plain(name), ylim=(0, None), xticks=depths)
        for panel in axes[len(names) :]:
            panel.set_visible(False)
        axes[0].legend()
        figure.supxlabel("model steps ahead", fontsize=9)

    rows: Rows = []
    for name in names:
        both = zip(means[name], highs[name], strict=True)
        rows.append([name, *(f"{middle:.4f} ({high:.4f})" for middle, high in both)])
    clips = ", ".join(map(str, probe["clips"]))
    return picture(
        "image/svg+xml",
        plot(9, 0.4 + 1.9 * lines, draw),
        "Error of the probe by depth, a plot for each target; the table has the numbers",
        f"Absolute error of the linear probe that guardrails use, taught on {probe['data']}; clips "
        f"to teach it, to choose its strength and to test it: {clips}.",
    ) + table(
        "Its absolute error by model steps ahead, in SI units: mean (95 %)",
        ["", *map(str, depths)],
        rows,
    )


# ------------------------------------------------------------------------------------ imagination
def imagination(trained: dict[str, Any] | None, make: str) -> str:
    """How like the true frames the decoder's pictures are, by depth."""
    if trained is None:
        return missing("No decoder is kept with this checkpoint: latents cannot be shown.", make)
    rows: Rows = []
    for row in trained["by_depth"]:
        shown = [f"{row[k]:.3f}" for k in ("ssim", "ssim_worst_tenth", "average_ssim")]
        decibels = [f"{row[k]:.1f}" for k in ("psnr", "average_psnr")]
        rows.append(["encoded" if row["depth"] == 0 else row["depth"], *shown, *decibels])
    head = ("model steps ahead", "SSIM", "worst tenth, at most", "SSIM of the average frame")
    what = f"Pictures of latents beside true frames, {trained['clips']} clips of held-out episodes"
    return table(what, (*head, "PSNR, dB", "PSNR of the average frame, dB"), rows)


# --------------------------------------------------------------------------------------- surprise
def usual(found: dict[str, Any], make: str) -> str:
    """How large errors usually are: plot and table."""
    if not found:
        return missing("This checkpoint does not know how large its errors usually are.", make)
    levels, limits = found["levels"], found["limits"]
    p_values = [min(1.0, len(ERROR_NAMES) * level) for level in levels]  # Bonferroni

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, (colour, marker) in zip(ERROR_NAMES, LOOKS, strict=False):
            axes.loglog(p_values, limits[name], marker + "-", color=colour, ms=4, label=name)
        axes.invert_xaxis()
        axes.set(xlabel="p-value of a step in which an error is larger", ylabel="squared error")
        axes.legend()

    rows: Rows = []
    for at, (level, p_value) in enumerate(zip(levels, p_values, strict=True)):
        of_both = (f"{limits[name][at]:.4g}" for name in ERROR_NAMES)
        rows.append([f"{p_value:.3g}", f"{100 * level:.3g}", *of_both])
    return picture(
        "image/svg+xml",
        plot(7, 3.2, draw),
        "Error against p-value, for latents and proprio; the table has the numbers",
        "What was expected a model step ago beside what came: how large the squared error is, in "
        "units of the model's distance, and of proprio's variance.",
    ) + table(
        "What is usual", ("p-value", "% of usual steps with more", *ERROR_NAMES), rows, text=0
    )


def events(path: Path | None, info: CheckpointInfo, make: str) -> str:
    """Whether planted events were noticed."""
    if path is None:
        return missing("No result of planted events was given (--disturbances FILE).", make)
    found = parse_json(read_text(path), str(path))
    check_env(info, found, path)
    rows: Rows = []
    for name, event in found["disturbances"].items():
        delay = "" if event["delay"] is None else f"{event['delay']:g}"
        noticed = share(event["detected"])
        rows.append([name, event["episodes"], f"{event['auroc']:.3f}", noticed, delay])
    false = found["false_alarms"]
    said = (
        f"False alarms: {share(false['per_step'])} of usual steps, {share(false['per_episode'])} "
        f"of {found['episodes']} episodes of {found['steps']} steps. Policy "
        f"{found['policy']}, seed {found['seed']}."
    )
    what = f"Planted events, from {path.name}; an alarm is p < {found['alarm']:g}"
    head = ("", "episodes", "AUROC", "noticed within 10 steps", "steps until then, median")
    return f"{table(what, head, rows)}<p>{escape(said)}</p>\n"


# ------------------------------------------------------------------------------------- animations
Caption = tuple[str, bool | None]  # what is known of an animation, and whether the goal was reached


def animations(folders: Sequence[Path], *make: str) -> str:
    """All GIFs of the folders, successes first."""
    if not folders:
        return missing("No folder of animations was given (--gifs folder).", *make)
    shown: dict[bool | None, list[str]] = {True: [], False: [], None: []}
    for folder in folders:
        paths = sorted(folder.glob("*.gif"))
        if not paths:
            raise UserError(f"--gifs {folder}: there is no .gif in it; `plan` writes such a folder")
        known = captions(folder)
        for path in paths:
            name = f"{folder.name}/{path.name}"
            said, reached = known.get(path.name, ("", None))
            alt = f"Animation {name}: what the camera saw, beside the goal"
            caption = f"{name}: {said}" if said else name
            shown[reached].append(picture("image/gif", read_gif(path), alt, caption))
    titles = {True: "Goal reached", False: "Goal not reached", None: "Not known whether reached"}
    page = "<p>Two numbers are an error at the start &gt; at the end of the episode.</p>\n"
    return page + "".join(
        f'<h3>{titles[reached]} ({len(some)})</h3>\n<div class="gifs">{"".join(some)}</div>\n'
        for reached, some in shown.items()
        if some
    )


def read_gif(path: Path) -> bytes:
    """Its bytes, all of whose frames can be shown; or a UserError."""
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=("GIF",)) as image:
            for frame in range(getattr(image, "n_frames", 1)):
                image.seek(frame)
                image.load()
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no GIF, or damaged ({error}): make it again") from None
    return content


def captions(folder: Path) -> dict[str, Caption]:
    """What README.md of `evaluate --failures` and report.json of `plan` say, by names of GIFs."""
    said: dict[str, Caption] = {}
    gallery, plan = folder / "README.md", folder / "report.json"
    names: list[str] = []
    for line in read_text(gallery).splitlines() if gallery.exists() else ():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("| | episode | seed | success |"):
            names = cells
        elif names and (image := re.fullmatch(r"!\[.*\]\(([^()]+)\)", cells[0])):
            told = dict(zip(names, cells[1:], strict=False))
            caption = "; ".join(f"{name} {cell}" for name, cell in told.items())
            said[image[1]] = caption, told.get("success") != "never"
    if plan.exists():
        with written_by("plan", str(plan)):
            said["plan.gif"] = caption_of_plan(parse_json(read_text(plan), str(plan)))
    return said


def caption_of_plan(told: dict[str, Any]) -> Caption:
    """What became of a closed loop of `plan`."""
    outcome, steps = told["outcome"] or {}, told["steps"]
    reached = outcome.get("success_any")
    if reached is None:
        said = f"{steps} steps, without a goal that could be judged"
    elif reached:
        said = f"goal reached at step {outcome['first_success_step']} of {steps}"
        said += "" if outcome["success_final"] else ", and left again"
    else:
        said = f"goal not reached in {steps} steps"
    for key, what in (("interventions", "guardrails stepped in"), ("surprises", "surprised")):
        said += f"; {what} at {len(told[key])} steps" if told.get(key) else ""
    said += f"; stood still at times ({told['stop_reason']})" if told["stop_reason"] else ""
    return f"{told['goal']}, {told['planner']}, seed {told['seed']}: {said}", reached


# --------------------------------------------------------------------------------------- the page
def facts(run: str, folder: Path, info: CheckpointInfo) -> str:
    """What the checkpoint is, and what made the page."""
    path = folder / WEIGHTS
    try:
        weights = path.read_bytes()
        parameters = sum(tensor.numel() for tensor in parse_safetensors(weights).values())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or cut short ({error}): copy it again") from None
    model = info.model
    kwargs = "".join(f", {key} {value}" for key, value in info.env_kwargs.items())
    told = [f"{key} {value}" for key, value in info.training.items() if not isinstance(value, dict)]
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "mujoco", "numpy")
    ]
    pairs = {
        "environment": info.env_id + kwargs,
        "checkpoint": f"{run} ({parameters:,} parameters)",
        f"sha256 of {WEIGHTS}": hashlib.sha256(weights).hexdigest(),
        "encoder": f"{info.encoder}, frozen; images of {info.image_size} px",
        "hash of the encoder": info.encoder_hash,
        "latents": f"{model.tokens} x {model.dim}, representation {model.representation}",
        "predictor": f"{model.predictor}, depth {model.depth}, width {model.width}, "
        f"context {model.context}, frameskip {model.frameskip}",
        "training": "; ".join(told) or "not recorded",
        "this page": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}, Python "
        f"{platform.python_version()}, {', '.join(versions)}",
    }
    rows = "".join(
        f'<tr><th scope="row" class="text">{escape(name)}</th><td>{escape(value)}</td></tr>\n'
        for name, value in pairs.items()
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>\n'


def configuration(info: CheckpointInfo) -> str:
    """All of config.json, folded up; long lists are cut."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            more = [f"... {len(value)} in all"] if len(value) > 16 else []
            return [cut(each) for each in value[:16]] + more
        return value

    told = yaml.safe_dump(cut(info.config()), sort_keys=False, default_flow_style=None, width=100)
    summary = f"All of {CONFIG}; of lists of more than 16, these"
    return f"<details><summary>{summary}</summary>\n<pre>{escape(told)}</pre></details>\n"


def report(config: ReportConfig) -> str:
    """The page.

    Raises:
        UserError: a file is missing or damaged, or is not what it should be.
    """
    folder = find_run(config.run)
    info, where = load_info(folder), folder / CONFIG
    name = config.run if folder.parent == BUNDLED_FOLDER else str(folder)
    found = {key: (f"{key} in {where}", each) for key, each in info.evaluation.items()}
    with written_by("evaluate --record", f"evaluation in {where}"):
        ours = [config.run, name, *(each["checkpoint"] for each in info.evaluation.values())]
    for path in map(Path, config.evaluation):
        result = parse_json(read_text(path), str(path))
        with written_by("evaluate --out", str(path)):
            check_env(info, result, path)
        found[str(path) if path.stem in found else path.stem] = str(path), result

    python, checkpoint = "python -m worldmodel.", shlex.quote(name)
    env = f"--env {shlex.quote(info.env_id)} --checkpoint {checkpoint}"
    probe = f"{python}probe --data DATA --checkpoints {checkpoint}"
    sections = {}
    metrics = folder.parent / "metrics.jsonl"
    with written_by("worldmodel.train", str(metrics)):
        command = f"{python}train --config CONFIG.yaml --out RUN"
        sections["Training"] = training(metrics, command)
    command = f"{python}evaluate {env} --record NAME"
    sections["Success"] = success(found, ours, command)
    with written_by("worldmodel.probe --out", str(config.probe)):
        sections["Probes"] = probes(config.probe, f"{probe} --out probe.json")
    with written_by("worldmodel.probe --save", f"probe in {where}"):
        sections["Probes"] += "<h3>The probe that is kept</h3>\n"
        sections["Probes"] += kept_probe(info.probe, f'{probe} --encoders "" --save true')
    with written_by("worldmodel.train_decoder", str(folder / DECODER)):
        command = f"{python}train_decoder --data DATA --checkpoint {checkpoint}"
        sections["Imagination"] = imagination(how_trained(folder), command)
    with written_by("worldmodel.surprise", f"surprise in {where}"):
        sections["Surprise"] = usual(info.surprise, f"{python}surprise {env}")
    with written_by("worldmodel.studies disturbances", str(config.disturbances)):
        command = f"{python}studies disturbances {env} --out disturbances.json"
        sections["Surprise"] += "<h3>Events</h3>\n" + events(config.disturbances, info, command)
    commands = (
        f"plan {env} --goal GOAL.png --out FOLDER",
        f"{python}evaluate {env} --failures FOLDER",
    )
    sections["Animations"] = animations([Path(folder) for folder in config.gifs], *commands)
    sections["Configuration"] = configuration(info)

    title = f"{config.run}: a world model of {info.env_id}"
    return assemble(title, facts(config.run, folder, info), sections)


@run_command
def main(argv: list[str] | None = None) -> None:
    """Gather, write the page, say how large it is."""
    config = parse_config(
        ReportConfig, argv, "worldmodel.report", "What is known of a model, on one HTML page."
    )
    if not config.out.parent.is_dir():
        raise UserError(f"cannot write {config.out}: there is no folder {config.out.parent}")
    made = report(config)
    atomic_write_text(config.out, made)
    size = len(made.encode()) / 1e6
    if 1e6 * size > LARGE:
        what = f"{config.out} has {size:.0f} MB, which browsers are slow to show"
        print(f"warning: {what}: give fewer --gifs", file=sys.stderr)
    print(f"wrote {config.out} ({size:.1f} MB)")
