"""What the README says is so: its snippets run, its commands exist, its tree is the tree."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SNIPPETS = [text for language, text in BLOCKS if language == "python"]
SHELL = {"python3", "pip", "pytest", ".", "plan", "python"}


def commands() -> list[list[str]]:
    """Every command of every bash block, split into words, comments left out."""
    found = []
    for language, text in BLOCKS:
        if language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                for command in line.split("&&"):
                    words = shlex.split(command, comments=True)
                    found += [words] if words else []
    return found


def run(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def help_of(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """What ``python -m module --help`` prints, run in this process: torch is slow to import."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert exit_.value.code in (0, None)
    return str(capsys.readouterr().out)


# -------------------------------------------------------------------------------------- snippets
def test_there_is_a_short_snippet() -> None:
    assert SNIPPETS
    for text in SNIPPETS:
        assert len([line for line in text.splitlines() if line.strip()]) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet: str) -> None:
    run(["-c", snippet])


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_runs(path: Path) -> None:
    run([str(path)])


# -------------------------------------------------------------------------------------- commands
def test_the_first_two_commands_run_the_main_job_and_the_tests() -> None:
    first, second = (text for language, text in BLOCKS[:2] if language == "bash")
    assert "pip install . && plan --env worldmodel/PushT-v0 --goal" in first
    assert README.index("<!-- test-command -->") < README.index(second)
    assert second.strip().endswith("pytest")


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:60])
def test_command_exists(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert words[0] in SHELL, "a program that installing this package does not bring"
    for word in words[1:]:
        if word.startswith(("configs/", "examples/", "tests/")):
            assert (ROOT / word).exists(), word
    if words[0] == "pip":
        extras = re.findall(r"\[(\w+)\]", " ".join(words))
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras)
    if words[0] == "plan":
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert 'plan = "worldmodel.plan:main"' in project
        words = ["python", "-m", "worldmodel.plan", *words[1:]]
    if words[:2] == ["python", "-m"]:
        shown = help_of(words[2], monkeypatch, capsys)
        for word in words[3:]:
            if word.startswith("--"):
                # --env_kwargs.layout is an entry of the dict --env_kwargs
                flag = word.partition("=")[0].partition(".")[0]
                assert re.search(rf"{re.escape(flag)}\b", shown), f"{words[2]} has no {flag}"


# ------------------------------------------------------------------------------------------ tree
def tree() -> dict[str, str]:
    """Path -> comment of every line of the tree that ends the README."""
    assert README.rstrip().endswith("```"), "the README ends with the file tree"
    entries: dict[str, str] = {}
    above: list[str] = []
    for line in BLOCKS[-1][1].splitlines():
        name, _, comment = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 4
        above[depth:] = [name.rstrip("/")]
        entries["/".join(above)] = comment.strip()
    return entries


def test_the_tree_names_every_python_file() -> None:
    command = ["git", "ls-files", "*.py", "*.yaml"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    tracked = listed.stdout.split()
    if not tracked:  # a source archive, without git
        folders = ("worldmodel", "planners", "envs", "tests", "examples", "configs")
        found = [p for f in folders for s in ("py", "yaml") for p in (ROOT / f).rglob(f"*.{s}")]
        tracked = [str(path.relative_to(ROOT)) for path in found]
    assert set(tracked) - set(tree()) == set()


def test_the_tree_names_nothing_else_and_says_what_each_file_is() -> None:
    for path, comment in tree().items():
        if path.endswith((".py", ".yaml", ".toml", ".md", ".ci/run", "LICENSE")):
            assert (ROOT / path).is_file(), path
            assert comment, f"{path} has no comment"
