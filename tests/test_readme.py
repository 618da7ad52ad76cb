"""README and docs hold: snippets run, commands parse with the real parsers, links resolve."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import jsonargparse
import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
MOST_LINES = 150
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(page, *block) for page in PAGES for block in FENCE.findall(page.read_text("utf-8"))]
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
SHELL = {"python3", "pip", "pytest", ".", "plan", "python", ".ci/run"}
PLAN = ["python", "-m", "worldmodel.plan"]


class Parsed(BaseException):
    """Raised once a command line has been parsed, before the command runs."""


def blocks(language: str) -> list[tuple[Path, str]]:
    return [(page, text) for page, found, text in BLOCKS if found == language]


def commands() -> list[list[str]]:
    """Every distinct command of every bash block, split into words, without comments."""
    found: dict[str, list[str]] = {}
    for _, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                if words := shlex.split(command, comments=True):
                    found[shlex.join(words)] = words
    # The first lines of each config are the commands that run it.
    for config in sorted((ROOT / "configs").glob("*.yaml")):
        lines = config.read_text("utf-8").splitlines()
        comment = "\n".join(line[1:].strip() for line in lines if line.startswith("#"))
        for command in re.findall(r"python -m worldmodel(?:[^\n]|\n--)*", comment):
            words = shlex.split(command.replace("\n", " "))
            found[shlex.join(words)] = words
    return list(found.values())


def snippets() -> list[object]:
    return [
        pytest.param(text, id=f"{page.stem}-{number}")
        for number, (page, text) in enumerate(blocks("python"))
    ]


def run(arguments: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "MINARI_DATASETS_PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --------------------------------------------------------------------------------------- README
def test_the_readme_is_one_page() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= MOST_LINES


def test_the_first_two_commands_make_a_plan_and_run_the_tests() -> None:
    first, second = (text for _, text in blocks("bash")[:2])
    assert "pip install . && plan --env worldmodel/PushT-v0 --goal" in first
    text = README.read_text("utf-8")
    assert text.index("<!-- test-command -->") < text.index(second)
    assert second.strip().endswith("pytest")


def test_readme_snippets_are_short() -> None:
    texts = [text for page, text in blocks("python") if page == README]
    assert texts
    for text in texts:
        assert len([line for line in text.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


# ------------------------------------------------------------------------------------- snippets
@pytest.mark.slow
@pytest.mark.parametrize("snippet", snippets())
def test_snippet_runs(snippet: str, tmp_path: Path) -> None:
    run(["-c", snippet], tmp_path)


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ALONE = [path for path in EXAMPLES if path.name != "robot_client.py"]  # tested with its server


@pytest.mark.slow
@pytest.mark.parametrize("path", ALONE, ids=lambda p: p.name)
def test_example_runs(path: Path, tmp_path: Path) -> None:
    run([str(path)], tmp_path)


def test_the_environment_of_the_docs_is_a_task_that_gymnasium_accepts() -> None:
    import gymnasium as gym
    import numpy as np
    from gymnasium.utils.env_checker import check_env

    from envs.task import task_of

    (text,) = (text for _, text in blocks("python") if "class Point" in text)
    exec(compile(text, "own-data.md", "exec"), {"__name__": "docs"})
    env = gym.make("Point-v0")
    check_env(env.unwrapped, skip_render_check=True)
    task = task_of(env)
    start, goal = task.sample_task(3, 25)
    assert not task.success(start, goal) and task.success(goal, goal)
    observation, info = env.reset(options={"state": start, "goal_state": goal})
    for _ in range(30):
        action = np.clip(goal - info["state"], -0.1, 0.1).astype(np.float32)
        observation, _, _, _, info = env.step(action)
    assert info["is_success"]
    assert np.array_equal(observation["pixels"], task.render_state(info["state"]))


@pytest.mark.slow
def test_the_logs_of_the_docs_are_a_dataset(tmp_path: Path) -> None:
    from worldmodel.data.dataset import open_dataset

    (text,) = (text for _, text in blocks("python") if "create_dataset_from_buffers" in text)
    run(["-c", text], tmp_path)
    dataset = open_dataset(tmp_path / "my-robot-v0")
    assert dataset.episodes == 20 and dataset.proprio.shape[1] == 2


# ------------------------------------------------------------------------------------- commands
@pytest.mark.parametrize("words", commands(), ids=lambda words: shlex.join(words)[:60])
def test_command_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] in SHELL, "a program that installing this package does not bring"
    for word in words[1:]:
        if word.startswith(("configs/", "examples/", "tests/")):
            assert (ROOT / word).exists(), word
    if words[0] == "pip":
        extras = re.findall(r"\[(\w+)\]", " ".join(words))
        assert all(re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE) for extra in extras)
    if words[0] == "plan":
        assert 'plan = "worldmodel.plan:main"' in PROJECT
        words = [*PLAN, *words[1:]]
    if words[:2] != ["python", "-m"]:
        return
    parse = jsonargparse.ArgumentParser.instantiate

    def parse_and_stop(*args: object, **kwargs: object) -> object:
        parse(*args, **kwargs)  # type: ignore[arg-type]
        raise Parsed

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(jsonargparse.ArgumentParser, "instantiate", parse_and_stop)
    monkeypatch.setattr(sys, "argv", words[2:])
    monkeypatch.delitem(sys.modules, words[2], raising=False)
    with pytest.raises(Parsed):
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)


def test_the_default_recipe_is_the_default() -> None:
    from worldmodel.cli import parse_config
    from worldmodel.training.config import TrainConfig

    arguments = ["--config", str(ROOT / "configs/default.yaml"), "--data", "data/robot"]
    assert parse_config(TrainConfig, arguments, "train", "") == TrainConfig("data/robot")
