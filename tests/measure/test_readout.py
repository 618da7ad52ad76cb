"""Probes, and their command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from worldmodel import probe as probe_module
from worldmodel.encoders.vit import ViT, ViTConfig
from worldmodel.measure import readout
from worldmodel.training.pretraining import export_encoder

SMALL = ViTConfig(image_size=28, patch_size=14, dim=32, depth=1, heads=2)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    export_encoder(ViT(SMALL), tmp_path / "encoder", {"steps": 0})
    return tmp_path / "encoder"


def test_probes_recover_what_is_there() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1200, 8, generator=g)
    y = torch.stack([x[:, 0] - 2 * x[:, 1], x[:, 2] * x[:, 3]], 1)
    fit, val, test = slice(0, 800), slice(800, 1000), slice(1000, 1200)
    weights = readout.ridge(x[fit], y[fit], x[val], y[val])
    linear = readout.r2(x[test] @ weights[:-1] + weights[-1], y[test])
    assert linear[0] > 0.99 and linear[1] < 0.2


@pytest.mark.slow
def test_attention_probe_finds_the_odd_token() -> None:
    g = torch.Generator().manual_seed(0)
    tokens = 0.1 * torch.randn(1000, 9, 8, generator=g)
    place = torch.randint(9, (1000,), generator=g)
    tokens[torch.arange(1000), place] += 2.0
    y = torch.stack([place % 3, place // 3], 1).float() - 1
    model = readout.fit_attention(tokens[:700], y[:700], tokens[700:850], y[700:850], seed=0)
    with torch.no_grad():
        assert readout.r2(model(tokens[850:]), y[850:]).min() > 0.95


@pytest.mark.slow
def test_probe_command_line(
    tmp_path: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldmodel import collect

    data = str(tmp_path / "pusht")
    collected = ["--env", "worldmodel/PushT-v0", "--out", data, "--episodes", "6", "--steps", "30"]
    assert collect.main([*collected, "--workers", "1"]) == 0
    out = tmp_path / "probe.json"
    asked = ["--data", data, "--encoders", f"random-112,dino-112={exported}", "--out", str(out)]
    assert probe_module.main([*asked, "--components", "32", "--checkpoints", "pusht"]) == 0
    result = json.loads(out.read_text())
    names = ["pusher_x", "pusher_y", "block_x", "block_y", "sin block_angle", "cos block_angle"]
    assert [list(row["r2"]) for row in result["results"]] == [names] * 6
    shown = capsys.readouterr().out
    assert "| random-112 | ridge |" in shown and "| latents of pusht | ridge |" in shown
    assert probe_module.main(["--data", data, "--targets", "weight"]) == 2
    assert "pusher_x" in capsys.readouterr().err
