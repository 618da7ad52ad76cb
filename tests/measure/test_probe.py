"""Probes and causal tests, on latents of which it is known what they hold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from make import Make
from torch import Tensor, nn

from worldmodel import collect
from worldmodel import probe as probe_verb
from worldmodel.measure import probing as probe
from worldmodel.measure.probe_targets import mean_errors, position_columns
from worldmodel.measure.readout import Parts, linear_reading, narrow, r2, read
from worldmodel.models.latents import LatentClips, imagine
from worldmodel.models.world_model import DataSpec, ModelConfig, WorldModel
from worldmodel.studies import causal as causal

NAMES = ["x", "y", "squared"]


def truths(n: int, seed: int = 0) -> Tensor:
    """Two independent places and, of the first, its square: [n, 3]."""
    places = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([places, places[:, :1] ** 2], 1)


def latents(y: Tensor, size: int = 6) -> Tensor:
    """Latents [n, size] that hold the two places linearly, and some noise."""
    g = torch.Generator().manual_seed(5)
    mixing = torch.linalg.qr(torch.randn(size, size, generator=g))[0][:2]
    return y[:, :2] @ mixing + 0.01 * torch.randn(len(y), size, generator=g)


def parts(values: Tensor) -> Parts:
    return Parts(*values.split([len(values) * 6 // 10, len(values) // 10, len(values) * 3 // 10]))


def log_of(kinds: str) -> probe.ProbeLog:
    encoder: Any = SimpleNamespace(hash="")
    return probe.ProbeLog([], "toy", encoder, NAMES, probe.ProbeConfig(kinds=kinds))


# --------------------------------------------------------------------------------------- reading
def test_probes_read_what_is_there_and_nothing_off_shuffled_labels() -> None:
    y = truths(1500)
    log = log_of("shuffled")
    log.probe("latents", None, "toy", narrow(parts(latents(y)), 100, 0), parts(y))
    score = {(row["kind"], row["probe"]): row["r2"] for row in log.rows}
    assert min(score["latents", "ridge"][name] for name in ("x", "y")) > 0.99
    assert min(score["latents", "MLP"].values()) > 0.97
    assert score["latents", "ridge"]["squared"] < 0.05  # it is there, but not linearly
    for kind in ("ridge", "MLP"):
        assert max(map(abs, score["shuffled", kind].values())) < 0.1
    assert [row["of"] for row in log.rows if row["kind"] == "shuffled"] == ["latents"] * 2


def test_features_with_many_numbers_become_principal_components() -> None:
    y = truths(1000)
    x = narrow(parts(latents(y, 300).unflatten(1, (30, 10)).half()), 20, 0)
    assert x.train.shape == (600, 20) and 0.5 < x.train.std(0).max() < 2
    assert r2(read("ridge", x, parts(y), 0), parts(y).test)[:2].min() > 0.95


def test_a_linear_reading_is_in_units() -> None:
    y = truths(1000)[:, :2] * 0.1 + 3
    z = latents(y) * 7 - 2
    weights = linear_reading(z[:800], y[:800], z[800:], y[800:])
    assert (z @ weights[:-1] + weights[-1] - y).abs().mean() < 0.1 * y.std()


def test_each_quarter_is_tested_by_probes_that_never_saw_it() -> None:
    """In the one quarter the latents say the opposite: only who was taught there could know."""
    y = truths(600)
    told = y[:, :2].clone()
    told[(y[:, :2] < 0).all(1)] *= -1
    log = log_of("regions")
    probe.probe_regions(log, parts(told), parts(y))
    score = {row["at"]: row["r2"] for row in log.rows if row["probe"] == "MLP"}
    assert len(score) == 4 and score["low x, low y"]["x"] < 0
    assert len(log.rows) == 8 and {row["kind"] for row in log.rows} == {"region"}

    log = log_of("regions")
    probe.probe_regions(log, parts(y[:, :2]), parts(y))
    ridge = [row["r2"] for row in log.rows if row["probe"] == "ridge"]
    assert min(min(score["x"], score["y"]) for score in ridge) > 0.99


def test_errors_of_angles_go_the_short_way_round() -> None:
    angles = torch.tensor([[3.1], [-3.1]])
    columns = torch.cat([torch.ones(2, 1), angles.sin(), angles.cos()], 1)
    errors = mean_errors(["x", "sin yaw", "cos yaw"], columns[:1] * 2, columns[1:])
    assert list(errors) == ["x", "yaw"]
    assert errors["yaw"] == pytest.approx(2 * math.pi - 6.2, abs=1e-5)


def test_the_last_place_is_what_is_moved() -> None:
    assert position_columns(["pusher_x", "pusher_y", "block_x", "block_y", "sin angle"]) == (2, 3)
    assert position_columns(["x", "y", "vx", "vy"]) == (0, 1)
    assert position_columns(["chips", "x"]) is None


# ------------------------------------------------------------------------------ the toy predictor
def toy(**config: Any) -> WorldModel:
    """A new world model: it predicts that nothing moves."""
    spec = DataSpec(4, 8, (-1.0,), (1.0,), (0.0, 0.0), (1.0, 1.0))
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"tokens": 1, "dim": 6, "predictor": "mlp", "width": 16, "depth": 2}
    return WorldModel(ModelConfig(**{**sizes, "context": 2, "frameskip": 2, **config}), spec)


def clips_of(z: Tensor, steps: int = 3) -> LatentClips:
    """Clips of toy latents [n, C] in which nothing moves."""
    n = len(z)
    return LatentClips(
        z[:, None, None].repeat(1, 2, 1, 1),
        torch.zeros(n, 2, 2),
        torch.zeros(n, 1, 2),
        torch.rand(n, steps, 2, generator=torch.Generator().manual_seed(1)),
        np.arange(n)[:, None] + np.arange(steps + 1),
    )


@pytest.mark.parametrize("predictor", ["mlp", "local", "transformer"])
def test_activations_are_those_that_predict(predictor: str) -> None:
    model = toy(predictor=predictor, tokens=4, dim=3, heads=2)
    nn.init.normal_(model.predictor.next_z.weight)
    z = latents(truths(20), 12)
    clips = clips_of(z)._replace(z=z.reshape(20, 1, 4, 3).repeat(1, 2, 1, 1))
    layers = probe.activations(model, clips)
    assert len(layers) == 1 + len(model.predictor.blocks)
    assert torch.allclose(layers[0][:, :24].float(), clips.z.flatten(1), atol=1e-2)
    shape = (4, 16) if predictor != "mlp" else (16,)
    hidden = layers[-1].float().unflatten(1, shape)
    with torch.no_grad():
        change = model.predictor.next_z(model.predictor.norm(hidden)).flatten(1)
    imagined = imagine(model, clips)
    assert torch.allclose(imagined[:, 1] - imagined[:, 0], change, atol=0.05)
    assert not any(module._forward_hooks for module in model.modules())


class Forgetful(nn.Module):
    """A predictor for which the first three numbers of the latents are always 0 next."""

    def forward(self, z: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        return -z[:, -1] * torch.tensor([1.0, 1, 1, 0, 0, 0]), torch.zeros(len(z), 2)


def shifts(model: WorldModel, kind: str) -> dict[str, Any]:
    """What becomes of an edit that moves x, the first number of the latents, by 0.1."""
    y = truths(500)[:, :2]
    z = torch.cat([y, torch.randn(500, 4, generator=torch.Generator().manual_seed(2))], 1)
    weights = torch.zeros(7, 2)
    weights[0, 0] = weights[1, 1] = 1
    editor = causal.Editor(z, y, weights, (0, 1))
    edit = editor.reading(y, y + torch.tensor([0.1, 0]))
    if kind == "random":
        edit = editor.random(edit, torch.Generator().manual_seed(0))
    found = causal.moved(model, clips_of(z), edit, weights[:-1, 0].expand(3, -1))
    return causal.judged(found / 0.1, torch.ones(500, 3))


def test_a_predictor_that_keeps_the_edit_passes_and_the_control_does_not() -> None:
    told = shifts(toy(), "reading")
    assert told["n"] == 500 and told["median_share"] == pytest.approx([1, 1, 1], abs=1e-3)
    assert all(r["rate"] == 1 and r["low"] > 0.99 for r in told["right"] + told["agrees"])
    control = shifts(toy(), "random")
    assert all(0.4 < r["rate"] < 0.6 for r in control["right"])
    assert max(map(abs, control["median_share"])) < 0.2


def test_a_predictor_that_has_no_use_for_the_latent_fails() -> None:
    model = toy()
    model.predictor = Forgetful()  # type: ignore[assignment]
    told = shifts(model, "reading")
    assert told["median_share"] == [0, 0, 0]
    assert all(r["rate"] == 0 for r in told["right"] + told["agrees"])


def test_an_edit_of_one_reading_leaves_the_others_alone() -> None:
    y = truths(2000)
    z = latents(y) * torch.tensor([1, 5, 0.2, 1, 1, 2])
    weights = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    editor = causal.Editor(z, y, weights, (0, 1))
    shift = torch.tensor([0.0, 0.5, 0.0])
    edit = editor.reading(y, y + shift)
    assert torch.allclose(edit @ weights[:-1], shift.expand(2000, -1), atol=1e-3)
    lengths = [(e / z.std(0)).norm(dim=1) for e in (edit, editor.random(edit, torch.Generator()))]
    assert torch.allclose(*lengths, rtol=1e-3)


def test_an_edit_by_means_goes_from_here_to_there() -> None:
    y = truths(5000)[:, :2]
    z = latents(y)
    editor = causal.Editor(z, y, linear_reading(z, y, z, y), (0, 1))
    now = y[y.norm(dim=1) < 1]
    shift = torch.tensor([0.5, 0.0])
    edit = editor.means(now, now + shift)
    moved = edit @ editor.weights[:-1]
    assert torch.allclose(moved.mean(0), shift, atol=0.03)


def test_cases_in_which_the_simulator_says_nothing_are_not_judged_by_it() -> None:
    truth = torch.tensor([[1.0, 0.0], [-0.5, 0.1], [0.1, 0.0]])
    told = causal.judged(torch.tensor([[0.8, 0.8], [-0.2, 0.8], [-0.1, 0.8]]), truth)
    assert told["agrees_n"] == [2, 0] and told["agrees"][0]["rate"] == 1
    assert told["agrees"][1] is None and told["right"][0]["rate"] == pytest.approx(1 / 3)


def test_the_simulator_moves_what_nobody_touches_by_the_whole_shift(make: Make) -> None:
    world: Any = make("PushT").unwrapped
    start = np.zeros((1, len(world.state_names)))
    start[0, :4] = [0.06, 0.06, 0.3, 0.3]  # the pusher is far away from the block
    dataset: Any = SimpleNamespace(
        state=start.repeat(11, 0),
        state_names=world.state_names,
        actions=np.zeros((11, *world.action_space.shape), np.float32),
    )
    moved = causal.simulated(world, dataset, np.array([[0, 5, 10]]), "block_x", 0.04)
    assert moved.tolist() == [pytest.approx([0.04, 0.04], abs=1e-3)]


# ------------------------------------------------------------------------------- the command line
@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (probe_verb.main, ["--kinds", "layer"], "layer"),
        (probe_verb.main, ["--clips", "3"], "clips 3"),
        (causal.main, ["--shift", "0"], "shift is 0"),
        (causal.main, ["--cases", "0"], "cases 0"),
    ],
)
def test_wrong_settings_are_said(
    main: Any, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_probe_and_edit_pusht(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(tmp_path / "pusht")
    collected = ["--env", "worldmodel/PushT-v0", "--out", data, "--episodes", "20", "--steps", "60"]
    assert collect.main([*collected, "--workers", "1"]) == 0
    out = tmp_path / "probe.json"
    asked = ["--data", data, "--encoders", "", "--checkpoints", "pusht", "--held_out", "0.3"]
    asked += ["--frames", "300", "--clips", "200", "--kinds", "all", "--out", str(out)]
    assert probe_verb.main([*asked, "--plots", str(tmp_path / "plots")]) == 0
    rows = json.loads(out.read_text())["results"]
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in probe.KINDS}
    assert [(row["at"], row["probe"]) for row in kinds["latents"]] == [
        (None, "ridge"),
        (None, "MLP"),
    ]
    assert min(kinds["latents"][0]["r2"].values()) > 0.95
    assert {row["at"] for row in kinds["imagined"]} == set(range(6))
    assert {row["at"] for row in rows if row["kind"] == "layer"} == set(range(6))
    assert sum(row["kind"] == "region" for row in rows) == 8
    assert max(max(row["r2"].values()) for row in kinds["shuffled"]) < 0.2
    deep = {row["at"]: row["mean_r2"] for row in kinds["imagined"] if row["probe"] == "ridge"}
    assert deep[0] > deep[5]
    for name in ("pusht-imagined.png", "pusht-layer.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")
    assert "| pusht, 5 steps ahead | ridge |" in capsys.readouterr().out

    folder = tmp_path / "causal"
    asked = ["--data", data, "--clips", "300", "--cases", "40", "--held_out", "0.3"]
    assert causal.main([*asked, "--out", str(folder)]) == 0
    rows = json.loads((folder / "causal.json").read_text())["results"]
    told = {row["edit"]: row for row in rows if row["moved"] == "all"}
    assert told["reading"]["right"][0]["rate"] > 0.9
    assert 0.2 < told["random, as reading"]["right"][0]["rate"] < 0.8
    assert told["copied"]["median_share"] == pytest.approx([1] * 5)
    assert (folder / "causal.png").read_bytes().startswith(b"\x89PNG")
    assert "| all | reading |" in capsys.readouterr().out
    assert causal.main(["--data", data, "--targets", "pusher_x"]) == 2
    assert "no target is a place" in capsys.readouterr().err
