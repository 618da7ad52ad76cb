"""Probes, on latents with known content."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_latents import clips_of, latents, toy_model, truths

from worldmodel import collect
from worldmodel import probe as probe_verb
from worldmodel.measure import probing as probe
from worldmodel.measure.probe_tables import distance_table
from worldmodel.measure.probe_targets import mean_errors, position_columns
from worldmodel.measure.readout import Parts, linear_reading, narrow, r2, read
from worldmodel.models.latents import imagine

NAMES = ["x", "y", "squared"]


def parts(values: Tensor) -> Parts:
    return Parts(*values.split([len(values) * 6 // 10, len(values) // 10, len(values) * 3 // 10]))


def log_of(kinds: str) -> probe.ProbeLog:
    encoder: Any = SimpleNamespace(hash="")
    return probe.ProbeLog([], "toy", encoder, NAMES, probe.ProbeConfig("data", kinds=kinds))


# --------------------------------------------------------------------------------------- reading
def test_probes_read_what_latents_hold_and_nothing_from_shuffled_targets() -> None:
    y = truths(1500)
    log = log_of("shuffled")
    log.probe("latents", None, "toy", narrow(parts(latents(y)), 100, 0), parts(y))
    score = {(row["kind"], row["probe"]): row["r2"] for row in log.rows}
    assert min(score["latents", "ridge"][name] for name in ("x", "y")) > 0.99
    assert min(score["latents", "MLP"].values()) > 0.97
    assert score["latents", "ridge"]["squared"] < 0.05  # held, but not linearly
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


def test_each_quarter_is_tested_by_probes_trained_on_the_others() -> None:
    """In the one quarter the latents say the opposite: only who was taught there could know."""
    y = truths(600)
    labels = y[:, :2].clone()
    labels[(y[:, :2] < 0).all(1)] *= -1
    log = log_of("regions")
    probe.probe_regions(log, parts(labels), parts(y))
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


def test_the_last_position_is_the_objects() -> None:
    assert position_columns(["pusher_x", "pusher_y", "block_x", "block_y", "sin angle"]) == (2, 3)
    assert position_columns(["x", "y", "vx", "vy"]) == (0, 1)
    assert position_columns(["chips", "x"]) is None


@pytest.mark.parametrize("predictor", ["mlp", "local", "transformer"])
def test_activations_are_those_that_predict(predictor: str) -> None:
    model = toy_model(predictor=predictor, tokens=4, dim=3, heads=2)
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


# ------------------------------------------------------------------------------- the command line
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds", "layer"], "layer"),
        (["--clips", "3"], "clips 3"),
        (["--encoders", ""], "encoders and checkpoints are empty"),
    ],
)
def test_bad_settings_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe_verb.main(["--data", "data", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_distances_of_several_datasets_are_one_table() -> None:
    task = {"latents": {"elapsed": 0.91, "task": 0.82}, "tokens": {"elapsed": 0.53, "task": 0.44}}
    none = {"latents": {"elapsed": 0.71}, "tokens": {"elapsed": 0.62}}
    table = distance_table(
        [
            {"data": "data/one", "distances": {"runs/one/checkpoint": task}},
            {"data": "data/two", "distances": {"runs/two/checkpoint": none}},
        ]
    )
    assert table.splitlines()[2:] == [
        "| `data/one` | `runs/one/checkpoint` | 0.91 | 0.53 | 0.82 | 0.44 |",
        "| `data/two` | `runs/two/checkpoint` | 0.71 | 0.62 | - | - |",
    ]


@pytest.mark.slow
def test_every_kind_of_features_is_probed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tmp_path / "pusht")
    collected = ["--env", "worldmodel/PushT-v0", "--out", data, "--episodes", "20", "--steps", "60"]
    assert collect.main([*collected, "--workers", "1"]) == 0
    out = tmp_path / "probe.json"
    asked = ["--data", data, "--encoders", "", "--checkpoints", "pusht", "--held_out", "0.3"]
    asked += ["--frames", "300", "--clips", "200", "--kinds", "all", "--out", str(out)]
    assert probe_verb.main([*asked, "--plots", str(tmp_path / "plots")]) == 0
    result = json.loads(out.read_text())
    correlation = result["distances"]["pusht"]
    assert correlation["latents"]["task"] > max(0.5, correlation["tokens"]["task"])
    assert 0.1 < correlation["latents"]["elapsed"] < 1
    rows = result["results"]
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in probe.KINDS}
    assert [(row["at"], row["probe"]) for row in kinds["latents"]] == [
        (None, "ridge"),
        (None, "MLP"),
    ]
    assert min(kinds["latents"][0]["r2"].values()) > 0.95
    assert [row["probe"] for row in kinds["looks"]] == ["ridge", "MLP"]
    assert 0 < kinds["looks"][0]["mean_r2"] < kinds["latents"][0]["mean_r2"]
    assert {row["at"] for row in kinds["imagined"]} == set(range(6))
    assert {row["at"] for row in rows if row["kind"] == "layer"} == set(range(6))
    assert sum(row["kind"] == "region" for row in rows) == 8
    assert max(max(row["r2"].values()) for row in kinds["shuffled"]) < 0.2
    deep = {row["at"]: row["mean_r2"] for row in kinds["imagined"] if row["probe"] == "ridge"}
    assert deep[0] > deep[5]
    for name in ("pusht-imagined.png", "pusht-layer.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")
    assert "| pusht, 5 steps ahead | ridge |" in capsys.readouterr().out
