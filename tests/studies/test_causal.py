"""The causal study: edits of latents, and shifts of the imagined future."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from make import Make
from torch import Tensor, nn
from toy_latents import clips_of, latents, toy_model, truths

from worldmodel import collect
from worldmodel.measure.readout import linear_reading
from worldmodel.models.world_model import WorldModel
from worldmodel.studies.__main__ import main
from worldmodel.studies.causal import edit_summary, imagined_shift, simulated_shift
from worldmodel.studies.latent_edits import PositionEditor


class Forgetful(nn.Module):
    """A predictor that sets the first three numbers of the latents to 0."""

    def forward(self, z: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        return -z[:, -1] * torch.tensor([1.0, 1, 1, 0, 0, 0]), torch.zeros(len(z), 2)


def shifts(model: WorldModel, kind: str) -> dict[str, Any]:
    """The result of an edit that moves x, the first number of the latents, by 0.1."""
    y = truths(500)[:, :2]
    z = torch.cat([y, torch.randn(500, 4, generator=torch.Generator().manual_seed(2))], 1)
    weights = torch.zeros(7, 2)
    weights[0, 0] = weights[1, 1] = 1
    editor = PositionEditor(z, y, weights, (0, 1))
    edit = editor.by_probe(y, y + torch.tensor([0.1, 0]))
    if kind == "random":
        edit = editor.random(edit, torch.Generator().manual_seed(0))
    shift = imagined_shift(model, clips_of(z), edit, weights[:-1, 0].expand(3, -1))
    return edit_summary(shift / 0.1, torch.ones(500, 3))


def test_a_predictor_that_keeps_the_edit_passes_and_the_control_does_not() -> None:
    found = shifts(toy_model(), "probe")
    assert found["n"] == 500 and found["median_shift"] == pytest.approx([1, 1, 1], abs=1e-3)
    assert all(r["rate"] == 1 and r["low"] > 0.99 for r in found["intended"] + found["agrees"])
    control = shifts(toy_model(), "random")
    assert all(0.4 < r["rate"] < 0.6 for r in control["intended"])
    assert max(map(abs, control["median_shift"])) < 0.2


def test_a_predictor_that_ignores_the_latent_fails() -> None:
    model = toy_model()
    model.predictor = Forgetful()  # type: ignore[assignment]
    found = shifts(model, "probe")
    assert found["median_shift"] == [0, 0, 0]
    assert all(r["rate"] == 0 for r in found["intended"] + found["agrees"])


def test_an_edit_changes_one_target_only() -> None:
    y = truths(2000)
    z = latents(y) * torch.tensor([1, 5, 0.2, 1, 1, 2])
    weights = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    editor = PositionEditor(z, y, weights, (0, 1))
    shift = torch.tensor([0.0, 0.5, 0.0])
    edit = editor.by_probe(y, y + shift)
    assert torch.allclose(edit @ weights[:-1], shift.expand(2000, -1), atol=1e-3)
    lengths = [(e / z.std(0)).norm(dim=1) for e in (edit, editor.random(edit, torch.Generator()))]
    assert torch.allclose(*lengths, rtol=1e-3)


def test_an_edit_by_means_moves_the_position() -> None:
    y = truths(5000)[:, :2]
    z = latents(y)
    editor = PositionEditor(z, y, linear_reading(z, y, z, y), (0, 1))
    now = y[y.norm(dim=1) < 1]
    shift = torch.tensor([0.5, 0.0])
    edit = editor.by_means(now, now + shift)
    shifted = edit @ editor.weights[:-1]
    assert torch.allclose(shifted.mean(0), shift, atol=0.03)


def test_cases_with_a_small_shift_in_the_simulator_are_left_out() -> None:
    truth = torch.tensor([[1.0, 0.0], [-0.5, 0.1], [0.1, 0.0]])
    found = edit_summary(torch.tensor([[0.8, 0.8], [-0.2, 0.8], [-0.1, 0.8]]), truth)
    assert found["agrees_n"] == [2, 0] and found["agrees"][0]["rate"] == 1
    assert found["agrees"][1] is None and found["intended"][0]["rate"] == pytest.approx(1 / 3)


def test_an_untouched_block_moves_by_the_whole_shift(make: Make) -> None:
    world: Any = make("PushT").unwrapped
    start = np.zeros((1, len(world.state_names)))
    start[0, :4] = [0.06, 0.06, 0.3, 0.3]  # the pusher is far away from the block
    dataset: Any = SimpleNamespace(
        state=start.repeat(11, 0),
        state_names=world.state_names,
        actions=np.zeros((11, *world.action_space.shape), np.float32),
    )
    moved = simulated_shift(world, dataset, np.array([[0, 5, 10]]), "block_x", 0.04)
    assert moved.tolist() == [pytest.approx([0.04, 0.04], abs=1e-3)]


# ------------------------------------------------------------------------------- the command line
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--shift", "0"], "shift is 0"), (["--cases", "0"], "cases is 0")],
)
def test_bad_settings_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["causal", "--data", "data", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_futures_of_pusht_follow_edits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(tmp_path / "pusht")
    collected = ["--env", "worldmodel/PushT-v0", "--out", data, "--episodes", "20", "--steps", "60"]
    assert collect.main([*collected, "--workers", "1"]) == 0
    out = tmp_path / "causal.json"
    asked = ["--data", data, "--clips", "300", "--cases", "40", "--held_out", "0.3"]
    assert main(["causal", *asked, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["results"]
    found = {row["edit"]: row for row in rows if row["moved"] == "all"}
    assert found["probe"]["intended"][0]["rate"] > 0.9
    assert 0.2 < found["random, as probe"]["intended"][0]["rate"] < 0.8
    assert found["copied"]["median_shift"] == pytest.approx([1] * 5)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "| all | probe |" in capsys.readouterr().out
    assert main(["causal", "--data", data, "--targets", "pusher_x", "--out", str(out)]) == 2
    assert "no target is a position" in capsys.readouterr().err
