"""What is usual, what is not, and what an agent does about it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from planners import Trajectory
from worldmodel.control.expectation import Expectation, unexpected
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.models.checkpoint import load_checkpoint, load_info
from worldmodel.studies import surprise as surprise
from worldmodel.wrappers import SurpriseMonitor

PUSHT = "worldmodel/PushT-v0"


# --------------------------------------------------------------------------------- expectations
def test_p_values_are_shares_of_what_is_usual() -> None:
    rng = np.random.default_rng(0)
    usual = rng.exponential(size=(5000, 2)) * [1.0, 100.0]
    expectation = Expectation.from_errors(usual)
    assert expectation.levels[0] == 0.5 and expectation.levels[-1] == 2**-12
    fresh = torch.from_numpy(rng.exponential(size=(40_000, 2)) * [1.0, 100.0])
    p_value = expectation.p_value(fresh)
    for level in (0.5, 0.1, 0.01, 0.002):
        share = float((p_value <= level).double().mean())
        assert 0.25 * level < share < 1.15 * level + 0.001
    least = 2 * 2**-12
    strange = torch.tensor([[50.0, 0.0], [0.0, 5000.0], [float("nan"), 0.0], [0.0, torch.inf]])
    torch.testing.assert_close(expectation.p_value(strange), torch.full((4,), least))
    assert expectation.p_value(torch.zeros(1, 2)) == 1.0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_few_errors_give_few_levels(count: int) -> None:
    expectation = Expectation.from_errors(np.arange(2.0 * count).reshape(-1, 2))
    assert expectation.levels[-1] >= 1 / (count + 1)  # a finer one nothing could vouch for
    again = Expectation(**{"levels": expectation.levels, "limits": expectation.limits})
    assert again == expectation


def test_what_stays_where_it_should_have_moved_stands_out() -> None:
    model, _, _ = load_checkpoint("pusht")
    pose = torch.tensor([[[0.0, 0.0, 1.0, 0.0, 5.0, 5.0]]])  # the thing's place, turn, the robot's

    def at(x: float) -> Trajectory:
        z = pose.clone()
        z[..., 0] = x
        return Trajectory(z, torch.zeros(1, len(model.proprio_std)))

    for seen, unmoved in ((0.0, True), (0.9, True), (1.1, False), (3.0, False)):
        latents, proprio, still = unexpected(model, at(2.0), at(seen), pose)[0].tolist()
        assert latents > 0 and proprio == 0
        assert still == (latents if unmoved else 0.0)


def test_scores_rank_what_no_level_tells_apart() -> None:
    usual = np.random.default_rng(0).exponential(size=(1000, 3))
    usual[:, 2] *= usual[:, 0] > 2  # mostly nothing at all
    expectation = Expectation.from_errors(usual)
    strange = torch.tensor([[1.0, 0.1, 0.0], [1.1, 0.1, 0.0], [1.1, 5.0, 0.0], [1.1, 5.0, 99.0]])
    scores = expectation.score(strange).tolist()
    assert scores == sorted(scores) and len(set(scores)) == 4


@pytest.fixture(scope="module")
def pusht() -> Any:
    env = make_env(PUSHT, {})
    yield env
    env.close()


# ------------------------------------------------------------------------ the command, a monitor
@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The bundled checkpoint, with what a short run of the command found; and its report."""
    folder = tmp_path_factory.mktemp("surprise")
    bundled = Path(surprise.__file__).parents[1] / "checkpoints" / "pusht"
    shutil.copytree(bundled, folder / "pusht")
    arguments = ["--env", PUSHT, "--checkpoint", folder / "pusht", "--usual", 30, "--episodes", 4]
    arguments += ["--steps", 25, "--alarm", 0.005, "--save", "true", "--out", folder / "found.json"]
    done = subprocess.run(
        [sys.executable, "-m", "worldmodel.surprise", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "| teleport | 4 |" in done.stdout and "False alarms: " in done.stdout
    return folder / "pusht", json.loads((folder / "found.json").read_text())


@pytest.mark.slow
def test_the_command_tells_events_from_what_is_usual(known: Any) -> None:
    folder, report = known
    for event in ("teleport", "vanish"):
        assert report["events"][event]["auroc"] > 0.9
    assert report["false_alarms"]["per_step"]["rate"] < 0.05
    info = load_info(folder)
    assert Expectation.of(info).levels[-1] == 2**-9  # 750 steps
    assert (
        info.evaluation
        == load_info(Path(surprise.__file__).parents[1] / "checkpoints/pusht").evaluation
    )


@pytest.mark.slow
def test_the_monitor_notices_what_is_moved_by_nobody(known: Any, pusht: Any) -> None:
    env = SurpriseMonitor(pusht, known[0], alarm=0.01)
    _, info = env.reset(seed=5)
    assert info["surprise"] == {"p_value": 1.0, "alarm": False}
    away = np.array([0.01, 0.0], np.float32)
    said = [env.step(away * (-1) ** (step // 5))[4]["surprise"] for step in range(12)]
    assert sum(each["alarm"] for each in said) <= 2
    pusht.unwrapped.disturb("teleport", np.random.default_rng(0))
    *_, info = env.step(away)
    assert info["surprise"]["alarm"] and info["surprise"]["p_value"] < 0.01


def test_what_is_usual_has_to_be_known_before_it_is_watched(pusht: Any, tmp_path: Path) -> None:
    from tiny import tiny_checkpoint

    with pytest.raises(UserError, match=r"run python -m worldmodel.surprise --env .*PushT-v0"):
        SurpriseMonitor(pusht, tiny_checkpoint(tmp_path / "tiny"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"usual": 1}, "usual is 1: it must be at least 2"),
        ({"steps": 12}, "steps is 12: it must be at least 20"),
        ({"alarm": 0.0}, "alarm is 0.0"),
    ],
)
def test_bad_settings_are_clear_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        surprise.SurpriseConfig(PUSHT, **options)
