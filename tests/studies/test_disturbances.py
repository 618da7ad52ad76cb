"""Usual prediction errors, detection of disturbances, and the monitor that reads them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_checkpoint

from worldmodel.control.surprise import UsualErrors
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.measure.prediction_errors import SurpriseConfig
from worldmodel.models.checkpoint import find_checkpoint, load_info
from worldmodel.studies.__main__ import main
from worldmodel.studies.disturbances import DisturbancesConfig, auroc, random_start, window
from worldmodel.wrappers import SurpriseMonitor

PUSHT = "worldmodel/PushT-v0"


@pytest.fixture(scope="module")
def pusht() -> Any:
    env = make_env(PUSHT, {})
    yield env
    env.close()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a bundled checkpoint with usual errors of a short run of the command."""
    folder = tmp_path_factory.mktemp("surprise") / "pusht"
    shutil.copytree(find_checkpoint("pusht"), folder)
    arguments = ["--env", PUSHT, "--checkpoint", folder, "--episodes", 30, "--steps", 25]
    done = subprocess.run(
        [sys.executable, "-m", "worldmodel.surprise", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "| fraction of steps with more | latents | proprio | unmoved |" in done.stdout
    return folder


@pytest.mark.slow
def test_the_command_stores_usual_errors(measured: Path) -> None:
    info = load_info(measured)
    assert UsualErrors.of(info).levels[-1] == 2**-9  # 750 steps
    assert info.evaluation == load_info(find_checkpoint("pusht")).evaluation


@pytest.mark.slow
def test_disturbances_are_detected(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "disturbances.json"
    arguments = ["--env", PUSHT, "--checkpoint", measured, "--episodes", 4, "--steps", 25]
    arguments += ["--alarm", 0.005, "--out", out]
    assert main(["disturbances", *map(str, arguments)]) == 0
    printed = capsys.readouterr().out
    assert "| teleport | 4 |" in printed and "False alarms: " in printed
    result = json.loads(out.read_text())
    for name in ("teleport", "vanish"):
        assert result["disturbances"][name]["auroc"] > 0.9
    assert result["false_alarms"]["per_step"]["rate"] < 0.05


@pytest.mark.slow
def test_the_monitor_detects_a_teleported_block(measured: Path, pusht: Any) -> None:
    env = SurpriseMonitor(pusht, measured, alarm=0.01)
    _, info = env.reset(seed=5)
    assert info["surprise"] == {"p_value": 1.0, "alarm": False}
    away = np.array([0.01, 0.0], np.float32)
    before = [env.step(away * (-1) ** (step // 5))[4]["surprise"] for step in range(12)]
    assert sum(each["alarm"] for each in before) <= 2
    pusht.unwrapped.disturb("teleport", np.random.default_rng(0))
    *_, info = env.step(away)
    assert info["surprise"]["alarm"] and info["surprise"]["p_value"] < 0.01


def test_the_monitor_and_the_study_need_usual_errors(
    pusht: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = tiny_checkpoint(tmp_path / "tiny")
    message = "run python -m worldmodel.surprise --env worldmodel/PushT-v0"
    with pytest.raises(UserError, match=message):
        SurpriseMonitor(pusht, tiny)
    arguments = ["--env", PUSHT, "--checkpoint", str(tiny), "--out", str(tmp_path / "r.json")]
    assert main(["disturbances", *arguments]) == 2
    assert message in capsys.readouterr().err


# ----------------------------------------------------------------------------------- arithmetic
def test_auroc_counts_pairs_in_the_right_order() -> None:
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([0.0, 2.0]), np.array([1.0])) == 0.5


def test_windows_start_in_contact_and_end_within_the_episode() -> None:
    contact = np.zeros(50, bool)
    assert random_start(contact, True, 0) is None
    start = random_start(contact, False, 0)
    assert start is not None and 10 <= start < 40
    contact[35] = True
    assert random_start(contact, True, 0) in (35, None)
    errors = np.arange(50.0)
    assert (
        len(window(errors, 40)) == 10 and len(window(errors, 41)) == len(window(errors, None)) == 0
    )


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (SurpriseConfig, {"episodes": 1}, "episodes is 1: it must be at least 2"),
        (SurpriseConfig, {"steps": 20}, "steps is 20: it must be above 20"),
        (DisturbancesConfig, {"steps": 20}, "steps is 20: it must be above 20"),
        (DisturbancesConfig, {"alarm": 0.0}, "alarm is 0.0"),
    ],
)
def test_bad_settings_are_refused(config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(PUSHT, **options)
