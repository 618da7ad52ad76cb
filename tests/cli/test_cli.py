"""The command line's promises: configs, exit codes, progress, safe files."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from processes import started

from worldmodel.cli import (
    Progress,
    atomic_write_bytes,
    atomic_write_json,
    exclusive,
    parse_config,
    progress,
    run,
)
from worldmodel.errors import UserError


@dataclass(frozen=True)
class Model:
    """A model."""

    depth: int = 4
    """Layers in it."""
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}: it must be at least 1")


@dataclass(frozen=True)
class Config:
    """A configuration."""

    env: str
    """Which environment."""
    out: Path | None = None
    seed: int = 0
    policy: Literal["explore", "random"] = "explore"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.95)
    rule: list[str] = field(default_factory=list)
    model: Model = field(default_factory=Model)


def parse(*arguments: str) -> Config:
    return parse_config(Config, list(arguments), "worldmodel.try", "Try it.")


def test_flags_of_lists_may_be_given_again(tmp_path: Path) -> None:
    assert parse("--env", "a").rule == []
    assert parse("--env", "a", "--rule", "b:x=0:1,y=2", "--rule=c").rule == ["b:x=0:1,y=2", "c"]
    assert parse("--env", "a", "--rule", '["b", "c"]').rule == ["b", "c"]
    (tmp_path / "c.yaml").write_text("env: a\nrule: [b]\n")
    assert parse("--config", str(tmp_path / "c.yaml"), "--rule", "c").rule == ["b", "c"]


def test_flags_fill_nested_and_free_form_fields() -> None:
    config = parse(
        *("--env", "a", "--out", "x/y", "--model.depth", "2", "--betas", "[0.1, 2e-1]"),
        *("--env_kwargs.layout", "U", "--env_kwargs.n", "3"),
    )
    assert config == Config(
        "a", Path("x/y"), env_kwargs={"layout": "U", "n": 3}, betas=(0.1, 0.2), model=Model(2)
    )
    assert isinstance(config.out, Path)


@dataclass(frozen=True)
class Search:
    """A search."""

    OPTIONS: ClassVar = "options"

    name: str = "cem"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Agent:
    """An agent."""

    samples: int = 4
    guardrails: tuple[str, ...] = ()
    limits: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Nested:
    """A configuration with short forms."""

    SHORT: ClassVar = {"search": "search.name", "guardrail": "agent.guardrails"}

    agent: Agent = field(default_factory=Agent)
    search: Search = field(default_factory=Search)


def test_short_forms_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def parsed(*arguments: str) -> Nested:
        return parse_config(Nested, list(arguments), "worldmodel.try", "Try it.")

    expected = Nested(Agent(3, ("a:x=1,y=2", "b"), [1.0, 2.5]), Search("mppi", {"beta": 2}))
    flags = ["--search", "mppi", "--search.beta", "2", "--agent.samples=3", "--guardrail"]
    flags += ["a:x=1,y=2", "--agent.guardrails", "b", "--agent.limits", "1", "--agent.limits=2.5"]
    assert parsed(*flags) == expected
    path = tmp_path / "c.yaml"
    path.write_text(
        "search: {name: mppi, beta: 2}\nguardrail: ['a:x=1,y=2']\n"
        "agent: {samples: 3, limits: [1, 2.5]}\n"
    )
    assert parsed("--config", str(path), "--guardrail", "b") == expected
    path.write_text("search: mppi\n")
    assert parsed("--config", str(path)) == Nested(search=Search("mppi"))
    with pytest.raises(UserError, match="'--guardrial'.*did you mean '--guardrail'"):
        parsed("--guardrial", "b")
    with pytest.raises(UserError, match="--search needs a value"):
        parsed("--search", "--guardrail", "b")
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "--guardrail is short for --agent.guardrails" in text


def test_yaml_is_read_and_later_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("env: a\nseed: 3\nenv_kwargs: {layout: U}\nmodel: {lr: 3e-4, depth: 7}\n")
    config = parse("--config", str(path), "--model.depth", "9")
    assert config == Config("a", None, 3, env_kwargs={"layout": "U"}, model=Model(9, 3e-4))
    assert parse(f"--config={path}").model.depth == 7
    assert isinstance(config.model.lr, float)  # PyYAML alone reads 3e-4 as text


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["--env", "a", "--sede", "3"], "--seed"),
        (["--env", "a", "--sed=3"], "--seed"),  # no abbreviations
        (["--env", "a", "--model.dpth", "3"], "--model.depth"),
        (["--env", "a", "--depth", "3"], "--model.depth"),
        (["--env", "a", "--env-kwarg.layout", "U"], "--env_kwargs"),
    ],
)
def test_unknown_flag_names_the_nearest(arguments: list[str], nearest: str) -> None:
    with pytest.raises(UserError, match=f"unknown flag '--.*did you mean '{nearest}'"):
        parse(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env: a\nsede: 3\n", r"unknown key 'sede' in .*c.yaml: did you mean 'seed'"),
        ("env: a\nmodel:\n  dpth: 3\n", r"'model.dpth' in .*: did you mean 'model.depth'"),
        ("env: a\nzzzz: 3\n", r"'zzzz'.*--help"),
        ("model: [\n", "not valid YAML"),
        ("- env\n", "key: value"),
    ],
)
def test_bad_yaml_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        parse("--config", str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --env"),
        (["--env", "a", "--seed", "abc"], 'seed.*whole number.*"?abc'),
        (["--env", "a", "--policy", "best"], "policy.*explore.*random.*best"),
        (["--env", "a", "--model.depth", "0"], "depth is 0"),
        (["--env", "a", "stray"], "stray"),
        (["--config", "no/such.yaml"], "no/such.yaml"),
    ],
)
def test_bad_values_say_what_is_wrong(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)


def test_help_shows_the_fields_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "Which environment." in text and "Layers in it." in text
    assert "python -m worldmodel.try" in text


SCRIPT = """
import sys, time
from worldmodel.cli import run
from worldmodel.errors import UserError

@run
def main(what):
    print("begun", flush=True)
    if what == "user": raise UserError("seed is -1:\\n at least 0")
    if what == "os": open("/no/such/folder/file", "w")
    if what == "bug": raise ValueError("a bug")
    if what == "wait": time.sleep(30)
    if what == "flood":
        while True: print("x" * 1000)

sys.exit(main(sys.argv[1]))
"""


def start(what: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return started(
        [sys.executable, "-c", SCRIPT, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.mark.parametrize(
    ("what", "status", "error"),
    [
        ("fine", 0, ""),
        ("user", 2, "error: seed is -1: at least 0\n"),
        ("os", 2, "error: /no/such/folder/file: No such file or directory\n"),
    ],
)
def test_exit_status(what: str, status: int, error: str) -> None:
    with start(what) as process:
        _, printed = process.communicate(timeout=60)
    assert (process.returncode, printed) == (status, error)


def test_a_bug_keeps_its_traceback() -> None:
    with start("bug") as process:
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" in printed and "a bug" in printed


def test_ctrl_c_ends_in_130() -> None:
    with start("wait") as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in printed


def test_closed_pipe_is_quiet() -> None:
    with start("flood") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


def test_run_passes_status_and_arguments() -> None:
    assert run(lambda: None)() == 0
    assert run(lambda a, b: a + b)(1, b=2) == 3


def test_progress_in_a_log_prints_lines_not_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bar: Progress[Any] = progress(total=100, description="train", unit="step")
    with bar:
        for _ in range(5):
            now += 4.0
            bar.update(10, loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train: 30/100 (30 %), 2.5 step/s, 28 s left, loss 0.5",  # at 12 s
        "train: 50/100 (50 %), 2.5 step/s, 20 s left, loss 0.5",  # the end
    ]
    with progress(total=12.0, description="train", unit="min") as minutes:
        minutes.update(1.44547990128)
    assert capsys.readouterr().err == "train: 1.4/12 min (12 %), 0 s left\n"
    assert list(progress([1, 2, 3], description="it")) == [1, 2, 3]
    assert re.match(r"it: 3/3 \(100 %\)", capsys.readouterr().err)


def test_atomic_write_replaces_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    atomic_write_json(path, {"a": 1})
    atomic_write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    with pytest.raises(UserError, match="cannot write .*missing.*No such file"):
        atomic_write_bytes(tmp_path / "missing" / "r", b"")


def test_exclusive_turns_a_second_process_away(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    second = (
        "from worldmodel.cli import exclusive, run\n"
        "@run\ndef main():\n"
        f"    with exclusive({str(lock)!r}, 'collecting'): pass\n"
        "raise SystemExit(main())"
    )
    command = [sys.executable, "-c", second]
    root = Path(__file__).parents[2]
    with exclusive(lock, "collecting"):
        held = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60)
    free = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60)
    assert held.returncode == 2 and "another process is collecting" in held.stderr
    assert free.returncode == 0
