"""The linear probe that guardrails use: state from latents, stored with the checkpoint."""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.cli.device import pick_device
from worldmodel.data.dataset import Dataset
from worldmodel.measure.probe_targets import targets_of
from worldmodel.measure.probing import three_parts
from worldmodel.measure.readout import linear_reading
from worldmodel.models.checkpoint import load_checkpoint, write_finding
from worldmodel.models.latents import draw_latent_clips, imagine

CLIPS = (4000, 500, 1000)  # for training, validation and test


def save_probe(
    name: str, dataset: Dataset, targets: str, held_out: float, seed: int, device: str = "auto"
) -> str:
    """Fit a linear probe of the targets to latents, encoded and imagined, and store it with the
    checkpoint.

    Args:
        name: bundled name, folder or hf:USER/NAME of the checkpoint.
        dataset: episodes that recorded the simulator's state.
        targets: as `targets_of` takes them.
        held_out: fraction of the episodes to measure errors on.
        seed: seed of the clips.
        device: auto, cpu, cuda or mps.

    Returns:
        A Markdown table of its absolute errors by depth.

    Raises:
        UserError: the dataset recorded no state, or its episodes are too short.
    """
    model, encoder, info = load_checkpoint(name, pick_device(device))
    names, values = targets_of(dataset, targets)
    rng = np.random.default_rng(seed)
    parts = [
        draw_latent_clips(model, encoder, dataset, episodes, count, info.horizon, rng)
        for episodes, count in zip(three_parts(dataset, held_out, rng), CLIPS, strict=True)
    ]
    z = [imagine(model, part) for part in parts]
    y = [torch.from_numpy(values[part.frames]).float() for part in parts]
    weights = linear_reading(*(part.flatten(0, 1) for part in (z[0], y[0], z[1], y[1])))
    errors = (z[2] @ weights[:-1] + weights[-1] - y[2]).abs()  # [n, 1 + T, K]
    by_depth = {"mean": errors.mean(0).T.tolist(), "p95": errors.quantile(0.95, 0).T.tolist()}
    rounded = {
        kind: {n: [float(f"{e:.4g}") for e in row] for n, row in zip(names, rows, strict=True)}
        for kind, rows in by_depth.items()
    }
    path = write_finding(
        name,
        "probe",
        {
            "names": names,
            "weights": weights.float(),
            "data": dataset.env_id,
            "clips": [len(part) for part in z],
            "errors": rounded,
        },
    )
    return f"{error_table(name, rounded)}\n\nwrote {path}"


def error_table(name: str, errors: dict[str, dict[str, list[float]]]) -> str:
    """Mean and 95 % absolute errors by depth, as Markdown."""
    depths = range(len(next(iter(errors["mean"].values()))))
    lines = [
        f"Absolute error of the linear probe of {name} on held-out episodes, mean (95 %):",
        "",
        "| model steps ahead | " + " | ".join(map(str, depths)) + " |",
        "|---|" + "---:|" * len(depths),
    ]
    for target, means in errors["mean"].items():
        cells = [f"{m:.4f} ({h:.4f})" for m, h in zip(means, errors["p95"][target], strict=True)]
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
