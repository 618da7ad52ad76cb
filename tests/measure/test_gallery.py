"""Animations of the worst episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worldmodel import evaluate as evaluate_verb
from worldmodel.errors import UserError
from worldmodel.measure import gallery
from worldmodel.measure import outcomes as outcome
from worldmodel.measure.film import BAR, CHART, SIDE
from worldmodel.measure.tasks import GoalTask

PUSHT = "worldmodel/PushT-v0"


def test_the_gallery_shows_the_worst_first(pusht: Any, tmp_path: Path) -> None:
    goal = np.array([0.1, 0.1, 0.25, 0.25, 0, 0, 0, 0, 0, 0.0])
    near, far = goal.copy(), goal.copy()
    near[2] += 0.03
    far[4] = 2.0
    task = GoalTask(far, goal, 0)
    paths = [np.stack(path) for path in ([far, goal], [far, far], [near, near], [far, goal, near])]
    paths = [np.concatenate([path, path[-1:]])[:3] for path in paths]
    outcomes = outcome.measure_outcomes(pusht, paths, [task] * 4)
    assert gallery.worst(pusht, paths, [task] * 4, outcomes) == [1, 2, 3, 0]
    assert gallery.worst(pusht, paths, [task] * 4, outcomes, 2) == [1, 2]
    gallery.save_failures(tmp_path / "bad", pusht, paths, [task] * 4, outcomes)
    names = sorted(path.name for path in (tmp_path / "bad").iterdir())
    films = [f"0{place}.{kind}" for place in (1, 2, 3, 4) for kind in ("gif", "mp4")]
    assert names == [*films, "README.md"]
    rows = (tmp_path / "bad" / "README.md").read_text().splitlines()[4:]
    assert "| 1 | 0 | never | 0.0 > 0.0 | 0.0 > 0.0 | 114.6 > 114.6 |" in rows[0]
    assert "| at step 1 | 0.0 > 0.0 | 0.0 > 30.0 |" in rows[2]
    assert "| at step 1, to the end |" in rows[3]
    with Image.open(tmp_path / "bad" / "01.gif") as animation:
        assert animation.n_frames == 3  # type: ignore[attr-defined]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        gallery.save_failures(tmp_path / "file" / "x", pusht, paths, [task] * 4, outcomes)


@pytest.mark.slow
def test_the_gallery_of_an_evaluation_shows_what_was_imagined(tmp_path: Path) -> None:
    rule = "no_go:x=0:0.02,y=0:0.02"
    plain = ["--env", PUSHT, "--episodes", "2", "--batch", "2", "--budget_steps", "10"]
    plain += [
        "--agent.samples",
        "8",
        "--agent.iterations",
        "1",
        "--random_episodes",
        "0",
        "--timed_plans",
        "1",
    ]
    plain += ["--ceiling.episodes", "0", "--failures", str(tmp_path), "--guardrail", rule]
    assert evaluate_verb.main(plain) == 0
    with Image.open(tmp_path / "01.gif") as animation:
        last = animation.convert("RGB")
    # Below reality: five imagined frames, then the chart with distance and clearance.
    assert last.height == SIDE + BAR + 2 * SIDE // 5 + 20 + CHART
    strip = last.crop((0, SIDE + BAR + 20, 2 * SIDE, SIDE + BAR + 100))
    block = [colour for _, colour in strip.getcolors(1 << 16) if colour[2] > colour[0] + 30]
    assert block  # the T is blue
