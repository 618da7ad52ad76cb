"""The candidates of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.agent import Agent
from worldmodel.control.config import AgentConfig, make_planner
from worldmodel.measure.explanation import RecordingPlanner
from worldmodel.models.checkpoint import load_checkpoint


def test_recorded_candidates_are_ranked_as_planners_rank_them(checkpoint: Path, pusht: Any) -> None:
    parts = load_checkpoint(checkpoint)
    settings = AgentConfig(samples=40, iterations=2, guardrails=("no_go:x=0:0.2,y=0:1",))
    agent = Agent(*parts, make_planner("cem"), settings)
    agent.planner = recorder = RecordingPlanner(agent, pusht)
    agent.reset(np.full((112, 112, 3), 90, np.uint8))
    pixels = np.full((112, 112, 3), 40, np.uint8)
    agent.act({"pixels": pixels, "proprio": np.array([0.21, 0.2, 0.0, 0.0], np.float32)})
    assert len(recorder.recorded) == 2
    for batch in recorder.recorded:
        assert batch.paths.shape == (40, agent.horizon, 2)
        count = int(batch.feasible.sum())
        assert batch.feasible[:count].all() and (np.diff(batch.cost[:count]) >= 0).all()
        # Feasible candidates stay out of the region along their imagined path.
        assert (batch.paths[:count, :, 0] > 0.2).all()
