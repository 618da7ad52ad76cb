"""Tables in Markdown pages, generated from ``results/*.json``.

A block in ``README.md`` or ``docs/*.md`` names its kind and its files::

    <!-- table success results/pusht.json results/maze-u.json -->
    ...
    <!-- end -->

`update_tables` rewrites what stands between the two comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.cli import atomic_write_text
from worldmodel.errors import UserError
from worldmodel.measure.calibration import calibration_table
from worldmodel.measure.statistics import in_percent, with_interval

Result = dict[str, Any]
Kind = Callable[[list[Result]], str]
"""A kind of table: Markdown from the contents of the files."""

BLOCK = re.compile(r"(<!-- table (\w+) ([^>]*?) *-->\n)(.*?)(<!-- end -->)", re.DOTALL)
PAGES = ("README.md", "docs/*.md")


@dataclass(frozen=True)
class TablesConfig:
    """Which pages to update."""

    root: Path = Path(".")
    """Folder with README.md, docs/ and results/."""
    check: bool = False
    """Write nothing; fail if a table and its files disagree, or a file is missing."""


@dataclass(frozen=True)
class Update:
    """Pages that differ from their files, and files that are missing."""

    changed: list[Path]
    missing: list[str]


def update_tables(config: TablesConfig, kinds: Mapping[str, Kind]) -> Update:
    """Rewrite the blocks of all pages, and ``results/README.md``.

    Args:
        config: where, and whether to write.
        kinds: the kinds of tables by name.

    Raises:
        UserError: an unknown kind, or a file that is no result of this kind.
    """
    pages: dict[Path, str] = {}
    missing: list[str] = []
    for pattern in PAGES:
        for path in sorted(config.root.glob(pattern)):
            text, absent = render_page(path, config.root, kinds)
            pages[path] = text
            missing += absent
    if (folder := config.root / "results").is_dir():
        pages[folder / "README.md"] = command_list(folder)
    changed = [path for path, text in pages.items() if _read(path) != text]
    if not config.check:
        for path in changed:
            atomic_write_text(path, pages[path])
    return Update(changed, sorted(set(missing)))


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def render_page(path: Path, root: Path, kinds: Mapping[str, Kind]) -> tuple[str, list[str]]:
    """The text of a page with its blocks rewritten, and the files that are missing.

    A missing file leaves its row out.

    Raises:
        UserError: see `update_tables`.
    """
    missing: list[str] = []

    def block(match: re.Match[str]) -> str:
        opening, kind, names, _, end = match.groups()
        if kind not in kinds:
            raise UserError(
                f"{path} has a table of kind {kind!r}: there are {', '.join(sorted(kinds))}"
            )
        results = []
        for name in names.split():
            if (root / name).exists():
                results.append(json.loads((root / name).read_text(encoding="utf-8")))
            else:
                missing.append(name)
        if not results:
            return f"{opening}{end}"
        try:
            table = kinds[kind](results)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(
                f"{path}: {names} cannot fill a table of kind {kind} ({error!r}): make them again"
            ) from None
        return f"{opening}\n{table.strip()}\n\n{end}"

    return BLOCK.sub(block, path.read_text(encoding="utf-8")), missing


def command_list(folder: Path) -> str:
    """The text of ``results/README.md``: the command, commit and machine of each result."""
    lines = [
        "# Results",
        "",
        "Written by `python -m worldmodel.tables`. Each file and its command:",
    ]
    for path in sorted(folder.glob("*.json")):
        origin = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        machine = origin["machine"]
        where = ", ".join(
            [
                f"commit {origin['commit'] or 'unknown'}",
                origin["date"],
                f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores",
                f"{origin['threads']} threads",
                str(origin["device"]),
            ]
        )
        lines += ["", f"`{path.name}` ({where})", "", f"    {origin['command']}"]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------ kinds of tables
def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def success_table(results: list[Result]) -> str:
    """Success of the agent, and the rates of the floor and the ceiling at any time."""
    head = ["", "goals", "episodes", "success at any time", "at the end", "random", "simulator"]
    return markdown(
        head,
        [
            [
                result["label"],
                _goals(result),
                str(result["episodes"]),
                in_percent(result["success_any"]),
                in_percent(result["success_final"]),
                *(_reference(result[name]) for name in ("random", "ceiling")),
            ]
            for result in results
        ],
    )


def _goals(result: Result) -> str:
    offset = result["goal_offset"]
    return f"{offset} steps ahead" if offset else "random"


def _reference(reference: Result | None) -> str:
    if reference is None:
        return ""
    return f"{100 * reference['rate']:.1f} % of {reference['episodes']}"


def metrics_table(results: list[Result]) -> str:
    """The task's own metrics, of the agent, random actions and the simulator."""
    names = {"": "agent", "random_": "random actions", "ceiling_": "simulator"}
    own = [
        name
        for name in results[0]["env_metrics"]
        if not name.startswith(tuple(filter(None, names)))
    ]
    rows = []
    for result in results:
        metrics = result["env_metrics"]
        for prefix, who in names.items():
            if prefix + own[0] in metrics:
                cells = [_interval(metrics[prefix + name]) for name in own]
                rows.append([f"{result['label']}: {who}", str(result["episodes"]), *cells])
    return markdown(["", "episodes", *(name.replace("_", " ") for name in own)], rows)


def _interval(interval: Mapping[str, float]) -> str:
    return in_percent(interval) if "rate" in interval else with_interval(interval)


def guardrails_table(results: list[Result]) -> str:
    """Violations and success under guardrails."""
    head = ["", "episodes", "episodes with a violation", "success without a violation"]
    head += ["success at any time", "worst violation", "steps without a plan"]
    rows = []
    for result in results:
        rails = result["guardrails"]
        worst = max(rails["worst_depth"].values(), default=None)
        rows.append(
            [
                result["label"],
                str(result["episodes"]),
                in_percent(rails["violation_per_episode"]),
                in_percent(rails["safe_success"]),
                in_percent(result["success_any"]),
                "" if worst is None else f"{worst:+.4f}",
                in_percent(rails["stop_rate"]),
            ]
        )
    return markdown(head, rows)


def decisions_table(results: list[Result]) -> str:
    """Time from observation to action of a single robot, and success."""
    head = ["", "decisions", "p50 ms", "p99 ms", "max ms", "model steps (p50)"]
    head += ["success at any time", "at the end", "threads"]
    rows = []
    for result in results:
        made = result["decisions"]
        rows.append(
            [
                result["label"],
                str(made["count"]),
                *(f"{made['ms'][name]:.1f}" for name in ("p50", "p99", "max")),
                f"{made['model_calls']['p50']:.0f}",
                in_percent(result["success_any"]),
                in_percent(result["success_final"]),
                str(result["settings"]["threads"]),
            ]
        )
    return markdown(head, rows)


def calibrations_table(results: list[Result]) -> str:
    """Margins of guardrails, as ``calibrate --out`` stores them."""
    return calibration_table([each for result in results for each in result["margins"]])


def one_after_another(table: Callable[[Result], str]) -> Kind:
    """A kind that shows the table of each file in turn."""
    return lambda results: "\n\n".join(map(table, results))


EVALUATION_KINDS: dict[str, Kind] = {
    "success": success_table,
    "metrics": metrics_table,
    "guardrails": guardrails_table,
    "decisions": decisions_table,
    "calibration": calibrations_table,
}
