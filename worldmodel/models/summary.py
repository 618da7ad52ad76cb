"""What a checkpoint is, in twenty lines."""

from __future__ import annotations

import json
from pathlib import Path

from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.findings import FILES, find_checkpoint

POOR = 0.9  # share of a number of proprio that should be readable off one image, for a position
UNSEEN = 0.5  # R^2 of a linear probe, below which plans can hardly act on a number
BLURRED = 0.5  # error one step ahead, as a share of that of the prediction that nothing changes


def model_facts(info: CheckpointInfo) -> dict[str, str]:
    """Environment, encoder, sizes and training of a model, by name."""
    model = info.model
    kwargs = "".join(f", {key} {value}" for key, value in info.env_kwargs.items())
    training = [f"{key} {v}" for key, v in info.training.items() if not isinstance(v, dict)]
    return {
        "environment": (info.env_id or "not recorded") + kwargs,
        "encoder": f"{info.encoder}, frozen; images of {info.image_size} px",
        "latents": f"{model.tokens} x {model.dim}, representation {model.representation}",
        "predictor": f"{model.predictor}, depth {model.depth}, width {model.width}, "
        f"context {model.context}, frameskip {model.frameskip}",
        "training": "; ".join(training) or "not recorded",
    }


def checkpoint_summary(name_or_path: str | Path, info: CheckpointInfo) -> str:
    """Where a checkpoint lies, and what `summary_lines` says about it."""
    folder = find_checkpoint(name_or_path)
    return "\n".join([f"{'checkpoint':<12} {folder}", *summary_lines(folder, info)])


def summary_lines(folder: Path, info: CheckpointInfo) -> list[str]:
    """What a model is, what it was trained on, what it reads and how well it predicts."""
    spec = info.spec
    rows = {
        **model_facts(info),
        "other sizes": f"of images: {info.fit}",
        "planning": f"{info.horizon} steps, {info.samples} candidates, "
        f"{info.iterations} iterations",
        "hold action": "not declared" if info.hold is None else str(info.hold),
        "held out": _held_out(folder),
    }
    lines = [f"{name:<12} {text}" for name, text in rows.items()]
    lines += _numbers("action", info.action_names, spec.action_low, spec.action_high)
    lines += _proprio(info)
    lines += reading_table(info.reading.get("r2", {}))
    have = [name for name in FILES if getattr(info, name)]
    lack = [name for name in FILES if name not in have]
    lines.append(f"{'finished':<12} {', '.join(have) or 'nothing'}; without {', '.join(lack)}")
    for name, result in info.evaluation.items():
        rate = result.get("success_any")
        if rate:
            low, high = 100 * rate["low"], 100 * rate["high"]
            text = f"{100 * rate['rate']:.1f} % ({low:.1f} to {high:.1f})"
            lines.append(f"{'success':<12} {text} of {result['episodes']} episodes, {name}")
    return lines


def _held_out(folder: Path) -> str:
    """The errors of the last validation, from the run that the checkpoint lies in."""
    try:
        lines = (folder.parent / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines if '"val_error"' in line][-1]
        error, copied = found["val_error"], found["val_copy"]
    except (OSError, ValueError, KeyError, IndexError):
        return "not recorded beside the checkpoint"
    text = f"error {error[0]:.3f} of spread one step ahead (no change: {copied[0]:.3f}), "
    text += f"{error[-1]:.3f} at {len(error)} steps ({copied[-1]:.3f})"
    if error[0] > BLURRED * copied[0]:
        text += "; POOR: hardly better than no change, so more data or training is needed"
    return text


def _numbers(
    what: str, names: tuple[str, ...], low: tuple[float, ...], high: tuple[float, ...]
) -> list[str]:
    labels = names or tuple(map(str, range(len(low))))
    parts = (f"{n} {a:g} to {b:g}" for n, a, b in zip(labels, low, high, strict=True))
    return [f"{what:<12} {', '.join(parts)}"]


def _proprio(info: CheckpointInfo) -> list[str]:
    names = info.proprio_names or tuple(map(str, range(len(info.readable))))
    parts = [f"{n} {share:.2f}" for n, share in zip(names, info.readable, strict=True)]
    line = f"{'proprio':<12} read off one image: {', '.join(parts)}"
    if not any(share >= POOR for share in info.readable):
        line += "; POOR: the goal image tells little of where the robot should be"
    return [line]


def reading_table(r2: dict[str, list[float]]) -> list[str]:
    """Lines with what a linear probe reads off latents of images and off imagined ones; `r2` has
    R^2 by name, 0, 1, ... T model steps ahead."""
    if not r2:
        return []
    width = max(12, *map(len, r2))
    last = len(next(iter(r2.values()))) - 1
    lines = ["read by a linear probe, R^2 on held-out episodes:"]
    lines.append(f"{'':<{width}} of images  imagined 1 step ahead  {last} steps ahead")
    for name, scores in r2.items():
        line = f"{name:<{width}} {scores[0]:9.2f}  {scores[1]:21.2f}  {scores[-1]:13.2f}"
        lines.append(line + ("  POOR" if scores[0] < UNSEEN else ""))
    if unseen := [name for name, scores in r2.items() if scores[0] < UNSEEN]:
        lines.append(
            f"POOR: latents hold little of {', '.join(unseen)}; plans hardly bring this to where "
            "the goal image shows it. Record more episodes in which it changes, or train longer"
        )
    return lines
