"""Exported programs compute what the model does, without this package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CONFIG, tiny_checkpoint
from torch import Tensor

import worldmodel
from worldmodel.deploy import checking
from worldmodel.deploy.checking import BATCHES, SampleEpisode, difference, inputs_of
from worldmodel.deploy.programs import DistanceProgram, programs
from worldmodel.deploy.writing import write_program
from worldmodel.encoders.encoder import load_encoder
from worldmodel.encoders.vit import ViT, ViTConfig
from worldmodel.export import main
from worldmodel.models.checkpoint import CheckpointInfo, load_checkpoint
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.world_model import WorldModel
from worldmodel.training.pretraining import export_encoder

EITHER = ("pt2", "onnx")
PT2 = ["distance.pt2", "encoder.pt2", "predictor.pt2"]
FORBIDDEN = ("worldmodel", "planners", "envs")
HIDE = f"import sys; sys.modules.update(dict.fromkeys({FORBIDDEN}))"
DIFFERENCES = re.compile(r"^\| (\w+\.\w+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an encoder that is small, too: images are resized for it."""
    folder = tmp_path_factory.mktemp("tiny")
    small = ViTConfig(image_size=28, patch_size=14, dim=32, depth=1, heads=2)
    export_encoder(ViT(small), folder / "encoder", {"steps": 0})
    return tiny_checkpoint(folder / "tiny", weights=folder / "encoder")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer frames, which take less time; the command tries them all."""
    monkeypatch.setattr(checking, "BATCHES", (1, 7))


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    """The tiny checkpoint, a transformer, exported by the command, with ONNX."""
    out = checkpoint.parent / "deep" / "export"
    flags = ["--checkpoint", checkpoint, "--out", out, "--horizon", 2, "--onnx", "true"]
    command = [sys.executable, "-m", "worldmodel.export", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = DIFFERENCES.findall(done.stdout)
    names = [f"{name}.{end}" for name in ("encoder", "predictor", "distance") for end in EITHER]
    assert [row[0] for row in rows] == names
    assert all(float(number) < 1e-3 for row in rows for number in row[1:])
    return out


def examples(folder: Path) -> list[str]:
    """The Python that the exported README tells people to run."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def elsewhere(code: str, folder: Path) -> None:
    """Run code in `folder`, where this project cannot be imported."""
    for name in FORBIDDEN:
        with pytest.raises(subprocess.CalledProcessError):
            in_python(f"{HIDE}; import {name}", folder)
    in_python(f"{HIDE}\n{code}", folder)


def in_python(code: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=120)


def siblings(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------- what is written
@pytest.mark.slow
def test_the_example_runs_without_the_package(
    exported: Path, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "robot"
    shutil.copytree(exported, folder)
    with_torch, with_onnx = examples(folder)
    assert len(with_torch.splitlines()) <= 12
    elsewhere(with_onnx, folder)
    elsewhere(
        f"import torch; torch.manual_seed(3)\n{with_torch}"
        "torch.save([frames, goal, actions, imagined_z, imagined_proprio, best], 'found.pt')\n",
        folder,
    )
    frames, goal, actions, z, proprio, best = torch.load(folder / "found.pt")
    model, encoder, info = load_checkpoint(checkpoint)
    encoder.autocast = False
    seen, aim = (model.encode(encoder.encode(images)) for images in (frames, goal))
    still = torch.zeros(1, 2, 10), torch.zeros(1, 3, len(info.spec.proprio_mean))
    imagined = model.rollout(seen[None], still[1], still[0], actions[None])
    torch.testing.assert_close(z, imagined.z[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(proprio, imagined.proprio[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(best, actions[model.distance(imagined.z[0, :, -1], aim).argmin()])
    assert (
        (actions >= model.action_low.repeat(5)) & (actions <= model.action_high.repeat(5))
    ).all()


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_any_batch_and_both_kinds_of_file_agree(exported: Path, batch: int) -> None:
    import onnxruntime

    told = json.loads((exported / "export.json").read_text())
    generator = torch.Generator().manual_seed(batch)
    for name, program in told["programs"].items():
        inputs: dict[str, Tensor] = {}
        for port in program["inputs"]:
            shape = [batch if side == "B" else side for side in port["shape"]]
            values = torch.rand(shape, generator=generator)
            inputs[port["name"]] = (255 * values).byte() if port["dtype"] == "uint8" else values
        loaded = torch.export.load(exported / f"{name}.pt2").module()
        expected = loaded(*inputs.values())
        expected = (expected,) if isinstance(expected, Tensor) else expected
        session = onnxruntime.InferenceSession(exported / f"{name}.onnx")
        assert [port.name for port in session.get_inputs()] == list(inputs)
        outputs = [port["name"] for port in program["outputs"]]
        found = session.run(outputs, {key: value.numpy() for key, value in inputs.items()})
        for one, other, port in zip(expected, found, program["outputs"], strict=True):
            assert list(one.shape) == [batch if s == "B" else s for s in port["shape"]]
            assert other.dtype == np.float32 and one.dtype == torch.float32
            np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_folder_documents_shapes_bounds_and_units(exported: Path) -> None:
    onnx = [name.replace("pt2", "onnx") for name in PT2]
    assert sorted(contents(exported)) == sorted([*PT2, *onnx, "README.md", "export.json"])
    assert siblings(exported) == ["export"]
    told = json.loads((exported / "export.json").read_text())
    assert (told["context"], told["frameskip"], told["horizon"]) == (3, 5, 2)
    assert told["action_high"] == pytest.approx([0.02, 0.02])
    assert told["proprio_names"] == ["pusher_x", "pusher_y", "pusher_vx", "pusher_vy"]
    shapes = {port["name"]: port["shape"] for port in told["programs"]["predictor"]["inputs"]}
    assert shapes["past"] == ["B", 2, 10] and shapes["actions"] == ["B", 2, 10]
    readme = (exported / "README.md").read_text()
    assert "displacement of the pusher's target" in readme and "metres" in readme  # units
    assert len(DIFFERENCES.findall(readme)) == 6


# ----------------------------------------------------------------------------------- every model
@pytest.mark.slow
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", ["pusht", "maze", "chips-open"])
def test_bundled_models(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / name
    assert main(["--checkpoint", name, "--out", str(out), "--horizon", "1"]) == 0
    rows = DIFFERENCES.findall(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["encoder.pt2", "predictor.pt2", "distance.pt2"]
    model, _, info = load_checkpoint(name)
    # Against the model once more, not by way of the module's own check.
    c, size = model.config, len(info.spec.action_low) * model.config.frameskip
    torch.manual_seed(0)
    z, proprio = (
        torch.randn(5, c.context, c.tokens, c.dim),
        torch.rand(5, c.context, len(model.proprio_std)),
    )
    past, actions = torch.rand(5, c.context - 1, size), torch.rand(5, 1, size)
    found = torch.export.load(out / "predictor.pt2").module()(z, proprio, past, actions)
    expected = model.rollout(z, proprio, past, actions[:, None])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other[:, 0], atol=1e-5, rtol=1e-5)
    # No more weights than are used.
    whole = sum(value.numel() for value in model.state_dict().values())
    assert (out / "predictor.pt2").stat().st_size < 4 * whole + 200_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(tokens=2, dim=8, predictor="mlp", width=32, depth=1, frameskip=5),
        ModelConfig(
            tokens=2, dim=8, actions="concat", width=32, depth=1, heads=2, context=1, frameskip=5
        ),
    ],
    ids=["mlp", "concat"],
)
def test_predictors_without_a_bundled_model(config: ModelConfig, tmp_path: Path) -> None:
    parts = programs(*model_of(config, load_encoder("random-112")), 2)
    written = write_program(parts[1], tmp_path, onnx=False)["predictor.pt2"]
    shapes = [[64, *map(int, port.shape[1:])] for port in parts[1].inputs]
    inputs = tuple(torch.rand(shape) for shape in shapes)
    assert difference(written, parts[1].eager, inputs)[1] < 1e-5


@pytest.mark.slow
def test_encoders_of_timm_and_images_of_another_size(tmp_path: Path) -> None:
    name = "vit_small_patch14_dinov2.lvd142m"
    fresh = load_encoder(name, pretrained=False, image_size=28)
    torch.save(fresh.backbone.state_dict(), tmp_path / "w.pth")
    encoder = load_encoder(name, tmp_path / "w.pth", image_size=28)
    encoder.autocast = False
    see = programs(*model_of(CONFIG, encoder), 2)[0]
    written = write_program(see, tmp_path, onnx=False)["encoder.pt2"]
    pixels = torch.randint(256, (max(BATCHES), 112, 112, 3)).byte()
    assert difference(written, see.eager, (pixels,))[1] < 1e-4


def model_of(config: ModelConfig, encoder: Any) -> tuple[WorldModel, Any, CheckpointInfo]:
    """An untrained model in which something moves, and what else `programs` needs."""
    spec = DataSpec(encoder.num_tokens, encoder.dim, (-1.0,) * 2, (1.0,) * 2, (0.0,), (1.0,))
    torch.manual_seed(0)
    model = WorldModel(config, spec).eval().requires_grad_(False)
    for layer in (model.predictor.next_z, model.predictor.next_proprio):
        torch.nn.init.normal_(layer.weight, std=0.1)
    info = CheckpointInfo("x", {}, 112, encoder.name, encoder.hash, config, spec, (1.0,))
    return model, encoder, info


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_a_model_whose_environment_cannot_be_made(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    shutil.copytree(checkpoint, other)
    content = json.loads((other / "config.json").read_text())
    content |= {"env_id": "somebody/Else-v0", "proprio_names": []}
    (other / "config.json").write_text(json.dumps(content))
    assert main(["--checkpoint", str(other), "--out", str(out), "--horizon", "1"]) == 0
    shown = capsys.readouterr()
    assert (
        "not checked on frames of the environment: no environment 'somebody/Else-v0'" in shown.err
    )
    assert "random images" in shown.out and "real frames" not in shown.out
    assert "Proprioception is 4 numbers" in (out / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_bfloat16_latents_are_those_of_the_agent(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    flags = ["--checkpoint", str(checkpoint), "--out", str(out), "--horizon", "1"]
    assert main([*flags, "--precision", "bfloat16"]) == 0
    assert sorted(contents(out)) == sorted([*PT2, "README.md", "export.json"])  # and no ONNX
    assert siblings(out) == ["out"]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), np.uint8)
    agent = worldmodel.load(checkpoint).inference.encode(pixels)
    encoders = (torch.export.load(each / "encoder.pt2").module() for each in (out, exported))
    coarse, exact = (encoder(torch.from_numpy(pixels)) for encoder in encoders)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, agent, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(coarse, exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(coarse, exact, atol=0.05, rtol=0.05)


# ------------------------------------------------------------------------------------- the check
def test_differences_in_any_batch_size_and_nan_are_found() -> None:
    inputs = (torch.arange(1.0, 65.0)[:, None],)

    def wrong(x: Tensor) -> Tensor:
        return x + (len(x) == 7) * 0.7

    assert difference(torch.clone, torch.clone, inputs) == (0.0, 0.0)
    absolute, relative = difference(wrong, torch.clone, inputs)
    assert absolute == pytest.approx(0.7) and relative == pytest.approx(0.1)
    for other in (lambda x: x * torch.nan, lambda x: x[:, 0]):
        assert all(np.isnan(difference(other, torch.clone, inputs)))


def test_inputs_belong_to_the_same_step() -> None:
    """Everything in the episode is numbered by its model step."""
    steps = torch.arange(9.0)
    episode = SampleEpisode(steps[:6, None, None, None].byte(), steps[:6, None], steps[:, None])
    inputs = inputs_of(episode, steps[:6, None, None], context=3, horizon=4)
    z, proprio, past, actions = inputs["predictor"]
    assert z[1].flatten().tolist() == proprio[1].flatten().tolist() == [1.0, 2.0, 3.0]
    assert past[1].flatten().tolist() == [1.0, 2.0]
    assert actions[1].flatten().tolist() == [3.0, 4.0, 5.0, 6.0] and len(actions) == len(z) == 4
    assert inputs["distance"][1].flatten().tolist() == [5.0]


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_files_that_differ_from_the_model_are_not_written(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text("an earlier export")
    right = DistanceProgram.forward
    monkeypatch.setattr(
        DistanceProgram, "forward", lambda self, z, goal: 1.01 * right(self, z, goal)
    )
    flags = ["--checkpoint", str(checkpoint), "--out", str(out), "--horizon", "1"]
    assert main(flags) == 2
    assert "distance.pt2 differs from the model by 0.01 of" in capsys.readouterr().err
    assert contents(out) == {"export.json": b"an earlier export"} and siblings(out) == ["out"]


def test_bad_input_is_refused_before_training(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.export, "export", None)  # the work
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("")
    (tmp_path / "mixed").mkdir()
    for name in ("export.json", "notes.txt"):
        (tmp_path / "mixed" / name).write_text("")
    before = sorted(tmp_path.rglob("*"))
    for flags, said in (
        (["--checkpoint", "pushd"], "bundled checkpoints are maze, chips, pusht"),
        (["--onnx", "true"], "pip install 'worldmodel[onnx]'"),
        (["--onnx", "true", "--precision", "bfloat16"], "float32"),
        (["--onnx", "true", "--device", "auto"], "not auto"),
        (["--device", "tpu"], "tpu"),
        (["--horizon", "-1"], "horizon is -1"),
        (["--precision", "float16"], "float16"),
        (["--out", str(tmp_path / "file")], "cannot write"),
        (["--out", str(tmp_path / "file" / "below")], "cannot write"),
        (["--out", str(tmp_path / "photos")], "holds more than an export, cat.png"),
        (["--out", str(tmp_path / "mixed")], "holds more than an export, notes.txt"),
    ):
        assert main(["--out", str(tmp_path / "out"), "--checkpoint", str(checkpoint), *flags]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
