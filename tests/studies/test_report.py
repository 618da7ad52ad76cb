"""The report: a complete page that agrees with its files and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tiny import tiny_checkpoint

from worldmodel import plan, report
from worldmodel.control.config import AgentConfig
from worldmodel.measure import evaluation as evaluate
from worldmodel.measure import probing as probe
from worldmodel.measure.ceiling import CeilingConfig
from worldmodel.measure.environments import make_env
from worldmodel.measure.evaluation import EvaluateConfig
from worldmodel.measure.goals import save_goal
from worldmodel.measure.prediction_errors import SurpriseConfig
from worldmodel.measure.tasks import sample_tasks
from worldmodel.models import checkpoint as checkpoint
from worldmodel.models import decoder as decoder
from worldmodel.studies.disturbances import DisturbancesConfig
from worldmodel.training import decoder_training as train_decoder
from worldmodel.training import trainer as train

PUSHT = "worldmodel/PushT-v0"
RULE = "no_go:x=0:0.02,y=0:0.02"
DISTURBED = "Disturbances, from disturbances.json; an alarm is p < 0.005"
VOID = {"meta", "img", "br"}
CONFIGS = {
    "evaluate": evaluate.EvaluateConfig,
    "probe": probe.ProbeConfig,
    "surprise": SurpriseConfig,
    "studies disturbances": DisturbancesConfig,
    "train": train.TrainConfig,
    "train_decoder": train_decoder.TrainDecoderConfig,
    "plan": plan.PlanConfig,
}


class Page(HTMLParser):
    """A page taken apart; an assertion fails where it is not well formed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}  # of each kind of tag
        self.tables: dict[str, list[list[str]]] = {}  # caption -> rows
        self.rows: list[list[str]] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID and self.open.pop() == tag
        if tag == "caption":
            self.tables[self.texts["caption"][-1]] = self.rows

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.replace("\xa0", " ")

    def images(self, kind: str) -> list[tuple[str, bytes]]:
        """Alternative text and content of the images of a media type."""
        start = f"data:{kind};base64,"
        return [
            (str(found["alt"]), base64.b64decode(str(found["src"])[len(start) :], validate=True))
            for tag, found in self.tags
            if tag == "img" and str(found["src"]).startswith(start)
        ]


def check_needs_nothing(page: Page) -> None:
    """No script, no address outside, nothing to fetch; links lead to places that exist once."""
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    for tag, found in page.tags:
        assert not any(name.startswith("on") for name in found), found
        for name in ("src", "href"):
            if name in found:
                value = str(found[name])
                assert value.startswith("data:image/") or value[1:] in ids, value[:60]
        assert tag != "img" or found["alt"]
        assert tag != "th" or found["scope"] in ("col", "row", "rowgroup")
    assert "url(" not in page.source and "@import" not in page.source
    assert ("html", {"lang": "en"}) in page.tags


def share(r: dict[str, float]) -> str:
    rate = r.get("rate", r.get("mean", 0.0))
    return f"{100 * rate:.1f} % ({100 * r['low']:.1f} to {100 * r['high']:.1f})"


def check_success(page: Page, evaluations: dict[str, dict[str, Any]]) -> None:
    """Every row of the table of success, from what was recorded."""
    expected: list[list[str]] = []
    for name, result in evaluations.items():
        expected.append([name])
        for prefix, found in (
            ("", result),
            ("random_", result["random"]),
            ("ceiling_", result["ceiling"]),
        ):
            if found:
                final = found["final"] if prefix else found["success_final"]
                n = str(found["episodes"])
                expected.append([n, share(found if prefix else found["success_any"]), share(final)])
    head, *rows = page.tables["Success, with Wilson 95 % intervals"]
    assert head == ["", "episodes", "at any time", "at the end"]
    assert [[row[0].split(" ")[0]] if len(row) == 1 else row[1:] for row in rows] == expected
    for row, (name, result) in zip(
        (r for r in rows if len(r) == 1), evaluations.items(), strict=True
    ):
        first, seeds = result["seed"], result["seeds"]
        assert row[0].startswith(
            f"{name} {result['budget_steps']} steps; goals {result['goal_offset']} "
        )
        said = f"seed {first}" if seeds == 1 else f"seeds {first} to {first + seeds - 1}, "
        assert said in row[0]


# ---------------------------------------------------------------------------- what a run leaves
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What training, `evaluate --out --failures` and `plan` leave of a tiny model: a folder with
    checkpoint/, metrics.jsonl, result.json, gallery/ and plan/."""
    folder = tmp_path_factory.mktemp("report")
    tiny_checkpoint(folder / "checkpoint")
    clock = {"minutes": 0.5, "samples_per_s": 100.0}
    lines: list[dict[str, Any]] = [
        {
            "step": step,
            "loss": 2.0 / step,
            "predict": 1.0 / step,
            "proprio": 0.1,
            "lr": 1e-3,
            **clock,
        }
        for step in range(10, 60, 10)
    ]
    for step in (30, 50):
        errors = {"val_error": [0.1234, 0.2345, 0.3456], "val_copy": [0.5, 0.6, 0.7]}
        lines.append({"step": step, **errors, "val_proprio": [0.01, 0.02, 0.03], **clock})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    guardrails = (RULE, "max_change:0.03")
    result = evaluate.evaluate(
        EvaluateConfig(
            PUSHT,
            checkpoint=str(folder / "checkpoint"),
            episodes=4,
            seeds=2,
            batch=2,
            agent=AgentConfig(samples=8, iterations=1, guardrails=guardrails),
            ceiling=CeilingConfig(1, 2, 1),
            budget_steps=5,
            timed_plans=1,
            goal_offset=5,
            failures=folder / "gallery",
        )
    )
    (folder / "result.json").write_text(json.dumps(result))
    env = make_env(PUSHT, {})
    save_goal(sample_tasks(env, 1, 0, 5)[0], env, folder / "goal.png")
    env.close()
    words = (
        f"--env {PUSHT} --steps 3 --agent.samples 8 --agent.iterations 1 --goal {folder}/goal.png"
    )
    where = f"--checkpoint {folder}/checkpoint --out {folder}/plan"
    assert plan.main([*words.split(), *where.split()]) == 0
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of `run`, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def made(tmp_path: Path, *arguments: object) -> Page:
    """The page of the command with these arguments."""
    out = tmp_path / "report.html"
    assert report.main([*map(str, arguments), "--out", str(out)]) == 0
    return Page(out)


PROBED = {
    "results": [
        {"encoder": "dino-112", "probe": "ridge", "r2": {"x": 0.5, "y": 0.25}, "seconds": 3},
        {"encoder": "dino-112", "probe": "mlp", "r2": {"x": 0.75}, "kind": "layer", "at": [1, 2]},
        {
            "encoder": "dino, shuffled $1$",
            "probe": "ridge",
            "r2": {"y": -7.0},
            "mean_error": {"y": 9},
        },
    ],
    "further": [1, 2],
}


def watched(**events: Any) -> dict[str, Any]:
    """What the study `disturbances` writes."""
    rate = {"rate": 0.25, "low": 0.125, "high": 0.5}
    event = {"episodes": 4, "auroc": 0.875, "detected": rate, "delay": None}
    alarms = {"per_step": rate, "per_episode": rate}
    return {
        "env": PUSHT,
        "policy": "explore",
        "steps": 25,
        "alarm": 0.005,
        "window": 10,
        "episodes": 4,
        "seed": 0,
        "false_alarms": alarms,
        "disturbances": {"teleport": event, **{name: event for name in events}},
    }


# ------------------------------------------------------------------------------------- the page
@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of the bundled checkpoint, by the command."""
    folder = tmp_path_factory.mktemp("bundled")
    command = [sys.executable, "-m", "worldmodel.report", "--run", "pusht", "--out"]
    done = subprocess.run(
        [*command, str(folder / "report.html")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert re.fullmatch(rf"wrote {folder}/report.html \(\d\.\d MB\)\n", done.stdout)
    return Page(folder / "report.html")


@pytest.mark.slow
def test_the_page_of_a_bundled_checkpoint_says_what_its_config_says(bundled: Page) -> None:
    check_needs_nothing(bundled)
    folder = checkpoint.find_checkpoint("pusht")
    info = checkpoint.load_info(folder)
    assert bundled.texts["title"] == bundled.texts["h1"] == [f"pusht: a world model of {PUSHT}"]
    weights = (folder / "model.safetensors").read_bytes()
    for said in (hashlib.sha256(weights).hexdigest(), info.encoder_hash):
        assert said in bundled.texts["table"][0]
    check_success(bundled, info.evaluation)
    caption = "Its absolute error by model steps ahead, in SI units: mean (95 %)"
    errors = info.probe["errors"]
    assert bundled.tables[caption][1:] == [
        [n]
        + [f"{m:.4f} ({h:.4f})" for m, h in zip(errors["mean"][n], errors["p95"][n], strict=True)]
        for n in info.probe["names"]
    ]
    levels, limits = info.surprise["levels"], info.surprise["limits"]
    assert bundled.tables["Usual prediction errors"][1:] == [
        [
            f"{min(1.0, 3 * x):.3g}",
            f"{100 * x:.3g}",
            *(f"{limits[name][k]:.4g}" for name in ("latents", "proprio", "unmoved")),
        ]
        for k, x in enumerate(levels)
    ]
    assert "frameskip: 5" in bundled.texts["pre"][0]


@pytest.mark.slow
def test_the_page_has_the_accuracy_of_the_decoder(bundled: Page) -> None:
    found = decoder.how_trained("pusht")
    assert found is not None
    (rows,) = [rows for caption, rows in bundled.tables.items() if "Pictures of" in caption]
    assert [row[1] for row in rows[1:]] == [f"{each['ssim']:.3f}" for each in found["by_depth"]]
    assert rows[1][0] == "encoded" and rows[-1][0] == "5"


@pytest.mark.slow
def test_missing_results_are_named_with_a_command_that_exists(bundled: Page) -> None:
    said = bundled.texts["p"]
    for part in (
        "This checkpoint has no metrics.jsonl",
        "No evaluation here had guardrails",
        "No result of probes",
    ):
        assert any(text.startswith(part) for text in said), part
    for part in ("No study of disturbances", "No folder of animations"):
        assert any(text.startswith(part) for text in said), part
    assert len(bundled.texts["code"]) == 6
    for command in bundled.texts["code"]:
        words = shlex.split(command)
        name = words[0] if words[0] == "plan" else words[2].removeprefix("worldmodel.")
        name += f" {words[3]}" if name == "studies" else ""
        assert words[0] == "plan" or words[:2] == ["python", "-m"]
        for word in words:
            if word.startswith("--"):
                config = CONFIGS[name]
                flags = {*config.__dataclass_fields__, *getattr(config, "SHORT", ()), "config"}
                assert word[2:] in flags, command


@pytest.mark.slow
def test_a_new_checkpoint_has_notes_in_place_of_results(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoint", tmp_path / "alone" / "checkpoint")
    page = made(tmp_path, "--run", tmp_path / "alone" / "checkpoint")
    check_needs_nothing(page)
    assert [text for text in page.texts["p"] if text.startswith("No evaluation is stored")]
    assert [
        text for text in page.texts["p"] if text.startswith("This checkpoint has no stored probe")
    ]
    assert [
        text for text in page.texts["p"] if text.startswith("This checkpoint does not store usual")
    ]
    assert page.images("image/svg+xml") == [] and list(page.tables) == []


def test_the_page_of_a_run_holds_all_that_is_given(run: Path, tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text(json.dumps(PROBED))
    (tmp_path / "disturbances.json").write_text(json.dumps(watched()))
    page = made(
        tmp_path,
        *("--run", run, "--evaluation", run / "result.json"),
        *("--probe", tmp_path / "probe.json", "--disturbances", tmp_path / "disturbances.json"),
        *("--gifs", run / "gallery", "--gifs", run / "plan"),
    )
    check_needs_nothing(page)
    result = json.loads((run / "result.json").read_text())
    check_success(page, {"result": result})
    assert page.tables["Held-out error at step 50 by model steps ahead"] == [
        ["", "1", "2", "3"],
        ["imagined latents", "0.1234", "0.2345", "0.3456"],
        ["copying the last frame", "0.5000", "0.6000", "0.7000"],
        ["imagined proprioception", "0.0100", "0.0200", "0.0300"],
    ]
    rails = result["guardrails"]
    shares = ["violation_per_episode", "violation_per_step", "safe_success", "safe_success_final"]
    heading, ours, top = page.tables[next(c for c in page.tables if c.startswith("Guardrails"))][1:]
    assert heading == [f"result {RULE}; max_change:0.03"]
    assert ours[1:5] == [share(rails[key]) for key in shares]
    assert ours[5] == f"{rails['worst_depth'][RULE]:+.3g}"
    assert ours[6:8] == [share(rails["stop_rate"]), share(rails["intervention_rate"])]
    assert top[1:5] == [share(result["ceiling"]["guardrails"][key]) for key in shares]
    assert page.tables["R^2 on held-out episodes, from probe.json"] == [
        ["features", "probe", "x", "y", "mean"],
        ["dino-112", "ridge", "0.500", "0.250", "0.375"],
        ["dino-112", "mlp", "0.750", "", "0.750"],
        ["dino, shuffled $1$", "ridge", "", "-7.000", "-7.000"],
    ]
    event = ["teleport", "4", "0.875", "25.0 % (12.5 to 50.0)", ""]
    assert page.tables[DISTURBED][1:] == [event]

    drawn = page.images("image/svg+xml")
    assert len(drawn) == 2  # training and probes
    for _, svg in drawn:
        assert ElementTree.fromstring(svg).tag.endswith("svg") and svg.count(b"<path") > 20
        assert b"<image" not in svg and b"<a " not in svg
        assert {link for link in re.findall(rb'href="(.)', svg)} <= {b"#"}

    gifs = {alt.split()[1].rstrip(":"): content for alt, content in page.images("image/gif")}
    paths = [*(run / "gallery").glob("*.gif"), *(run / "plan").glob("*.gif")]
    assert len(paths) == 5
    assert gifs == {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths}
    captions = {text.split(":")[0]: text for text in page.texts["figcaption"]}
    for line in (run / "gallery" / "README.md").read_text().splitlines()[4:]:
        image, episode, seed, said, pusher, *_ = line.strip("| ").split(" | ")
        caption = captions[f"gallery/{image[-7:-1]}"]
        assert f"episode {episode}; seed {seed}; success {said}; pusher, mm {pusher};" in caption
        title = "Goal not reached" if said == "never" else "Goal reached"
        shown = page.source.index(f"<h3>{title}"), page.source.index(f"gallery/{image[-7:-1]}:")
        assert shown[0] < shown[1]
    told = json.loads((run / "plan" / "report.json").read_text())
    reached = told["outcome"]["success_any"]
    assert ("goal reached at step" if reached else "goal not reached in 3 steps") in captions[
        "plan/plan.gif"
    ]


def test_the_same_files_make_the_same_page_but_for_the_time(run: Path, tmp_path: Path) -> None:
    pages = [made(tmp_path, "--run", run).source for _ in range(2)]
    assert len({re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", page) for page in pages}) == 1


def test_names_in_files_are_escaped(copy: Path, tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"><img src=x onerror=y>&amp;$a$"
    config = json.loads((copy / "checkpoint" / "config.json").read_text())
    result = json.loads((copy / "result.json").read_text())
    result |= {"checkpoint": evil, "planner": evil, "variation": [evil]}
    config |= {"encoder": evil, "training": {evil: evil}}
    (copy / "checkpoint" / "evaluation.json").write_text(json.dumps({evil: result}))
    (copy / "checkpoint" / "config.json").write_text(json.dumps(config))
    rows = [{"encoder": evil, "probe": evil, "r2": {evil: 0.5}, "mean_error": {evil: 1.0}}]
    (tmp_path / "probe.json").write_text(json.dumps({"results": rows}))
    (tmp_path / "disturbances.json").write_text(json.dumps(watched(**{evil: None})))
    readme = copy / "gallery" / "README.md"
    readme.write_text(readme.read_text().replace("never", evil).replace("at step", evil))
    page = made(
        tmp_path,
        *("--run", copy, "--probe", tmp_path / "probe.json"),
        *("--disturbances", tmp_path / "disturbances.json", "--gifs", copy / "gallery"),
    )
    check_needs_nothing(page)
    assert "<script" not in page.source and "onerror=y>" not in page.source
    events = page.tables[DISTURBED]
    assert events[2][0] == evil
    assert page.tables["R^2 on held-out episodes, from probe.json"][1][:2] == [evil, evil]
    assert any(evil in text for text in page.texts["figcaption"])


@pytest.mark.slow
def test_a_run_that_diverged_is_shown(copy: Path, tmp_path: Path) -> None:
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "loss": NaN, "predict": NaN, "proprio": Infinity, "lr": 0.1}\n')
    page = made(tmp_path, "--run", copy)
    assert len(page.images("image/svg+xml")) == 1
    (copy / "metrics.jsonl").write_text('{"step": 60, "loss": 0.5}\n')
    assert any(
        text.startswith("There is no validation yet")
        for text in made(tmp_path, "--run", copy).texts["p"]
    )


def test_a_large_page_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, "--run", "chips")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(report, "LARGE", 10_000)
    made(tmp_path, "--run", "chips")
    said = capsys.readouterr()
    assert said.err.startswith("warning: ") and said.err.count("\n") == 1 and "wrote" in said.out


# -------------------------------------------------------------------------------------- bad input
WHOLE = 10**9
PROBE = "is not what worldmodel.probe --out writes: "
EVALUATE = "is not what evaluate --out writes: "
NO_R2 = '{"results": [{"encoder": "a", "probe": "b", "r2": {}}]}'
MAZE = json.dumps({**watched(), "env": "worldmodel/Maze-v0"})
WEIGHTS, CONFIG = "checkpoint/model.safetensors", "checkpoint/config.json"


@pytest.mark.parametrize(
    ("flag", "file", "content", "message"),
    [
        ("--evaluation", "result.json", 40, "result.json is not valid JSON"),
        ("--evaluation", "result.json", None, "cannot read .*result.json: No such file"),
        ("--evaluation", "x.json", "[1]", r"x.json holds \[1\], not an object"),
        ("--evaluation", "x.json", "{}", EVALUATE + "it lacks 'env'"),
        ("--evaluation", "x.json", json.dumps(watched()), EVALUATE + "it lacks"),
        ("--probe", "result.json", WHOLE, PROBE + "it lacks 'results'"),
        ("--probe", "x.json", '{"results": []}', PROBE + "its results are empty"),
        ("--probe", "x.json", '{"results": [3]}', PROBE),
        ("--probe", "x.json", NO_R2, PROBE),
        (
            "--disturbances",
            "x.json",
            MAZE,
            "is about worldmodel/Maze-v0, but the checkpoint is for",
        ),
        ("--disturbances", "x.json", "\xff", "x.json is not UTF-8 text"),
        ("--gifs", CONFIG, WHOLE, "there is no .gif in it"),
        ("--gifs", "plan/plan.gif", 3000, "plan.gif is no GIF, or damaged"),
        ("--gifs", "plan/plan.gif", "GIF89a", "plan.gif is no GIF, or damaged"),
        ("--gifs", "plan/report.json", 9, "report.json is not valid JSON"),
        ("--gifs", "plan/report.json", "{}", "is not what plan writes: it lacks 'outcome'"),
        ("", "metrics.jsonl", 200, "line 2 of .*metrics.jsonl is not valid JSON"),
        ("", "metrics.jsonl", '{"loss": 1}', "not what worldmodel.train writes: it lacks 'step'"),
        ("", WEIGHTS, 999, "model.safetensors is damaged or cut short"),
        ("", WEIGHTS, None, "cannot read .*model.safetensors"),
        ("", CONFIG, 99, "config.json is not valid JSON"),
        ("", CONFIG, None, "that folder has no config.json"),
        ("--probes", "result.json", WHOLE, "did you mean '--probe'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_page(
    copy: Path,
    flag: str,
    file: str,
    content: str | int | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of `file`, given with `flag`: its text, or how much of it is left, or None of it."""
    path, out = copy / file, copy / "report.html"
    if file != "metrics.jsonl":
        (copy / "metrics.jsonl").unlink()  # its plots take time
    if content is None:
        path.unlink()
    else:
        text = path.read_bytes()[:content] if isinstance(content, int) else content.encode("latin1")
        path.write_bytes(text)
    given = [flag, str(path.parent if flag == "--gifs" else path)] if flag else []
    assert report.main(["--run", str(copy), "--out", str(out), *given]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not out.exists()


def test_the_folder_of_the_page_must_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--run", "pusht", "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
