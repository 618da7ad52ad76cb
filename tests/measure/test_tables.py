"""Tables of README and docs against results/*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worldmodel import tables
from worldmodel.measure.tables import TablesConfig, render_page, update_tables

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = sorted((ROOT / "results").glob("*.json"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_table_says_what_its_files_say(page: Path) -> None:
    text, _ = render_page(page, ROOT, tables.KINDS)
    assert text == page.read_text(encoding="utf-8"), "run python -m worldmodel.tables"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_every_result_is_short_and_says_where_it_comes_from(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < 300
    origin = json.loads(text)["provenance"]
    assert origin["command"].startswith("python ") and origin["machine"]["cores"]
    assert path.name in origin["command"]


def rate(value: float) -> dict[str, float]:
    return {"rate": value, "low": value, "high": value}


def evaluation(label: str, **changed: Any) -> dict[str, Any]:
    """A result with what tables need."""
    return {
        "label": label,
        "episodes": 10,
        "goal_offset": 25,
        "success_any": rate(0.9),
        "success_final": rate(0.8),
        "random": {**rate(0.1), "episodes": 10},
        "ceiling": None,
        "env_metrics": {"error": {"mean": 2.0, "low": 1.0, "high": 3.0}},
        "provenance": {
            "command": "python -m worldmodel.evaluate --out results/a.json",
            "commit": "abc",
            "date": "2030-01-01",
            "machine": {"cpu": "A CPU", "cores": 2, "gpu": None},
            "threads": 1,
            "device": "cpu",
        },
        **changed,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pages with blocks, and two results."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    for name in ("a", "b"):
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(evaluation(f"result {name}")))
    (tmp_path / "README.md").write_text(
        "Before\n\n<!-- table success results/a.json results/none.json results/b.json -->\nold\n"
        "<!-- end -->\n\nAfter\n"
    )
    (tmp_path / "docs" / "page.md").write_text(
        "<!-- table metrics results/b.json -->\n<!-- end -->\n"
    )
    return tmp_path


def test_blocks_are_rewritten_and_the_rest_is_kept(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables.main(["--root", str(root), "--check", "true"]) == 1
    assert "old" in (root / "README.md").read_text()
    assert tables.main(["--root", str(root)]) == 0
    assert "missing: results/none.json" in capsys.readouterr().out
    text = (root / "README.md").read_text()
    assert text.startswith("Before\n\n<!-- table") and text.endswith("<!-- end -->\n\nAfter\n")
    rows = [line for line in text.splitlines() if line.startswith("| result")]
    rates = "25 steps ahead | 10 | 90.0 % (90.0 to 90.0) | 80.0 % (80.0 to 80.0)"
    assert rows == [f"| result {name} | {rates} | 10.0 % of 10 |  |" for name in "ab"]
    assert "| result b: agent | 10 | 2.00 (1.00 to 3.00) |" in (root / "docs/page.md").read_text()
    commands = (root / "results" / "README.md").read_text()
    assert "`a.json` (commit abc, 2030-01-01, A CPU, 2 cores, 1 threads, cpu)" in commands
    assert "\n    python -m worldmodel.evaluate --out results/a.json\n" in commands
    assert update_tables(TablesConfig(root), tables.KINDS).changed == []


def test_a_changed_number_is_found(root: Path) -> None:
    tables.main(["--root", str(root)])
    (root / "results" / "a.json").write_text(
        json.dumps(evaluation("result a", success_any=rate(1)))
    )
    update = update_tables(TablesConfig(root, check=True), tables.KINDS)
    assert update.changed == [root / "README.md"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("nothing results/a.json", "table of kind 'nothing': there are anytime, bench"),
        ("decisions results/a.json", "results/a.json cannot fill a table of kind decisions"),
    ],
)
def test_wrong_blocks_are_named(
    root: Path, block: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "README.md").write_text(f"<!-- table {block} -->\n<!-- end -->\n")
    assert tables.main(["--root", str(root)]) == 2
    assert message in capsys.readouterr().err
