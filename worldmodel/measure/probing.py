"""How much of the simulator's state can be read from frozen tokens and from latents?

    python -m worldmodel.probe --data data/pusht --encoders dino-112,random-112 --out probe.json
    python -m worldmodel.probe --data data/pusht --encoders "" --checkpoints pusht --kinds all

R^2 on held-out episodes, and mean absolute errors. Of an encoder, the patch tokens of single frames
are probed: by ridge regression on their PCA and by a small attention probe. Of a checkpoint, by
ridge regression and by an MLP (`worldmodel.readout`), the kinds that `--kinds` names:

    latents   of single frames, always
    imagined  latents that were imagined 0 to T model steps ahead under the actions that were taken:
              with probes of each depth, and with that of depth 0 ("ridge of latents")
    layers    what the predictor is given for one step (0) and what each of its blocks makes of it,
              for what is true of the frame that it predicts
    regions   as latents, but what is moved was never in the quarter of the workspace to be tested
    shuffled  all of these but regions with labels that were permuted: R^2 should be near 0

`--save true` keeps with the checkpoint how to read its latents, encoded or imagined, for
guardrails. Velocities are left out by default: one frame does not show them. State is simulator
truth: it measures the model here, and is seen by no planner.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodel.cli import (
    Progress,
    atomic_write_bytes,
    atomic_write_json,
    parse_config,
    progress,
    run,
    writable_folder,
)
from worldmodel.control.guardrails import chips_left
from worldmodel.data.dataset import Dataset, open_dataset, split
from worldmodel.encoders.encoder import Encoder, load_encoder
from worldmodel.errors import UserError
from worldmodel.measure.film import as_png
from worldmodel.measure.readout import Parts, linear_reading, narrow, r2, read
from worldmodel.models.checkpoint import load_checkpoint, record
from worldmodel.models.world_model import WorldModel

KINDS = ("latents", "imagined", "layers", "regions", "shuffled")
_ANGLE = re.compile(r"(angle|theta|yaw)$")
_CHIP = re.compile(r"chip\d+_[xy]$")
_SEED = re.compile(r"(^|_)seed$")
_HIDDEN = re.compile(r"(^|[ _.])(v[xyz]?|omega|velocity|.*_?seed)$")  # not in a single frame


@dataclass(frozen=True)
class ProbeConfig:
    """One comparison of encoders.

    Attributes:
        data: dataset folder whose episodes recorded the simulator's state.
        encoders: names separated by commas; "name=weights" gives one its local weights.
        checkpoints: world models to be probed, too: names or folders, separated by commas.
        kinds: of what is probed of them: latents, imagined, layers, regions, shuffled, separated by
            commas; or all.
        targets: state names separated by commas; empty means all but velocities, "all" means those,
            too. Angles are replaced by their sine and cosine, the places of chips by how many are
            in the tray.
        frames: frames used in all.
        clips: clips used in all, for what is imagined and for layers.
        components: PCA components that ridge and MLP see of what has more numbers than that.
        save: keep with each of the checkpoints how to read the targets off its latents.
        held_out: share of the episodes that R^2 is measured on.
        seed: of the draw and of the probes that are trained.
        plots: folder for pictures of R^2 by depth and by layer; empty draws none.
        out: JSON file for the result; empty writes none.
    """

    data: str = "data/pusht"
    encoders: str = "dino-112,random-112"
    checkpoints: str = ""
    kinds: str = "latents"
    save: bool = False
    targets: str = ""
    frames: int = 20_000
    clips: int = 5000
    components: int = 1024
    held_out: float = 0.1
    seed: int = 0
    plots: str = ""
    out: str = ""

    def __post_init__(self) -> None:
        if min(self.frames, self.clips) < 100 or self.components < 1:
            raise UserError(
                f"frames is {self.frames}, clips {self.clips} and components {self.components}; a "
                "probe needs at least 100 frames, 100 clips and 1 component."
            )
        unknown = set(_listed(self.kinds)) - {*KINDS, "all"}
        if unknown:
            raise UserError(
                f"kinds has {', '.join(sorted(unknown))}: use {', '.join(KINDS)}, or all."
            )

    @property
    def chosen(self) -> set[str]:
        """The kinds."""
        kinds = set(_listed(self.kinds))
        return set(KINDS) if "all" in kinds else kinds


def targets_of(dataset: Dataset, wanted: str = "") -> tuple[list[str], np.ndarray]:
    """Names and values [N, K] of what a probe should predict.

    Raises:
        UserError: the dataset recorded no state, or a name is not one of its state.
    """
    if dataset.state is None:
        raise UserError(f"{dataset.path} recorded no simulator state, so nothing can be probed.")
    known = dataset.state_names or tuple(str(i) for i in range(dataset.state.shape[1]))
    names = _listed(wanted)
    if wanted == "all":
        names = [n for n in known if not (_SEED.search(n) or _CHIP.match(n))]
    for name in names:
        if name not in known:
            raise UserError(f"target {name!r} is not in the state: {', '.join(known)}.")
    names = names or [n for n in known if not (_HIDDEN.search(n) or _CHIP.match(n))]
    labels, columns = [], []
    # Which chip is which cannot be seen, but how many there are.
    if "chip0_x" in known and wanted in ("", "all"):
        labels.append("chips")
        columns.append(chips_left(known, torch.from_numpy(dataset.state)).numpy())
    for name in names:
        values = dataset.state[:, known.index(name)]
        if _ANGLE.search(name):
            labels += [f"sin {name}", f"cos {name}"]
            columns += [np.sin(values), np.cos(values)]
        else:
            labels.append(name)
            columns.append(values)
    moving = [i for i, column in enumerate(columns) if column.std() > 1e-9]
    return [labels[i] for i in moving], np.stack([columns[i] for i in moving], 1)


def encode_frames(encoder: Encoder, dataset: Dataset, frames: np.ndarray) -> Tensor:
    """Tokens of the given frames, float16 [n, P, D]."""
    out = torch.empty(len(frames), encoder.num_tokens, encoder.dim, dtype=torch.float16)
    bar: Progress[None]
    with progress(total=len(frames), description=encoder.name, unit="frame") as bar:
        for i in range(0, len(frames), 512):
            tokens = encoder.encode(dataset.pixels(frames[i : i + 512]))
            out[i : i + 512] = tokens
            bar.update(len(tokens))
    return out


@torch.no_grad()
def latents_of(model: WorldModel, encoder: Encoder, dataset: Dataset, frames: np.ndarray) -> Tensor:
    """Latents of the given frames, ``[n, P, D]``."""
    tokens = encode_frames(encoder, dataset, frames)
    return torch.cat([model.project(part.float()) for part in tokens.split(512)])


def frames_of(dataset: Dataset, episodes: np.ndarray) -> np.ndarray:
    """All frames of these episodes."""
    spans = [dataset.frames(int(e)) for e in episodes]
    return np.concatenate([np.arange(s.start, s.stop) for s in spans])


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Probe every encoder and checkpoint; returns what `--out` holds."""
    dataset = open_dataset(config.data)
    names, values = targets_of(dataset, config.targets)
    if dataset.episodes < 3:
        raise UserError(f"{config.data} has {dataset.episodes} episodes; a probe needs 3 or more.")
    rng = np.random.default_rng(config.seed)
    episodes = three_parts(dataset, config.held_out, rng)
    drawn = [frames_of(dataset, part) for part in episodes]
    share = min(1.0, config.frames / sum(map(len, drawn)))
    drawn = [np.sort(rng.permutation(f)[: max(2, round(len(f) * share))]) for f in drawn]
    y = Parts(*(torch.from_numpy(values[part]).float() for part in drawn))
    rows: list[dict[str, Any]] = []
    frames, counts = np.concatenate(drawn), [len(part) for part in drawn]

    for spec in _listed(config.encoders):
        name, _, weights = spec.partition("=")
        note = _Notes(rows, spec, load_encoder(name, weights or None), names, config)
        tokens = Parts(*encode_frames(note.encoder, dataset, frames).split(counts))
        note("encoder", None, spec, note.narrow(*tokens), y, ("ridge",))
        note("encoder", None, spec, tokens, y, ("attention",))
    for name in _listed(config.checkpoints):
        model, encoder, info = load_checkpoint(name)
        note = _Notes(rows, name, encoder, names, config)
        x = note.narrow(*latents_of(model, encoder, dataset, frames).split(counts))
        note("latents", None, f"latents of {name}", x, y)
        if "regions" in config.chosen:
            _regions(note, x, y)
        if "imagined" in config.chosen or "layers" in config.chosen:
            share = config.clips / sum(map(len, drawn))
            clips = [
                draw_clips(
                    model, encoder, dataset, part, max(2, round(share * len(f))), info.horizon, rng
                )
                for part, f in zip(episodes, drawn, strict=True)
            ]
            truths = [torch.from_numpy(values[part.frames]).float() for part in clips]
            if "imagined" in config.chosen:
                _depths(note, Parts(*(imagine(model, part) for part in clips)), Parts(*truths))
            if "layers" in config.chosen:
                _layers(note, model, clips, Parts(*(truth[:, 1] for truth in truths)))
    return {
        "data": config.data,
        "data_hash": dataset.hash,
        "frames": {k: len(f) for k, f in zip(Parts._fields, drawn, strict=True)},
        "clips": config.clips,
        "held_out_episodes": len(episodes[2]),
        "components": config.components,
        "seed": config.seed,
        "results": rows,
    }


class _Notes:
    """Probes features of one encoder or checkpoint, and notes how well that went."""

    def __init__(
        self,
        rows: list[dict[str, Any]],
        source: str,
        encoder: Encoder,
        names: list[str],
        config: ProbeConfig,
    ) -> None:
        self.rows, self.source, self.encoder = rows, source, encoder
        self.names, self.config = names, config
        self.started = time.monotonic()

    def __call__(
        self,
        kind: str,
        at: int | str | None,
        label: str,
        x: Parts,
        y: Parts,
        probes: tuple[str, ...] = ("ridge", "MLP"),
    ) -> None:
        """`kind` and `at`: what the features x are, as in the module's docstring. `label`: the same
        for people."""
        for probe in probes:
            self.add(kind, at, label, probe, read(probe, x, y, self.config.seed), y.test)
        if "shuffled" in self.config.chosen and kind in ("latents", "imagined", "layer"):
            # The control task of Hewitt and Liang (2019): what a probe learns of its own accord.
            g = torch.Generator().manual_seed(self.config.seed)
            y = Parts(*(part[torch.randperm(len(part), generator=g)] for part in y))
            for probe in probes:
                found = read(probe, x, y, self.config.seed)
                self.add("shuffled", at, f"{label}, shuffled", probe, found, y.test)
                self.rows[-1]["of"] = kind

    def narrow(self, *features: Tensor) -> Parts:
        """`narrow` of features to train, to validate and to test on."""
        return narrow(Parts(*features), self.config.components, self.config.seed)

    def add(
        self, kind: str, at: int | str | None, label: str, probe: str, found: Tensor, truth: Tensor
    ) -> None:
        """Note what was read, beside what is true."""
        score = [float(s) for s in r2(found, truth)]
        self.rows.append(
            {
                "encoder": label,
                "encoder_hash": self.encoder.hash,
                "source": self.source,
                "kind": kind,
                "at": at,
                "probe": probe,
                "r2": dict(zip(self.names, score, strict=True)),
                "mean_r2": float(np.mean(score)),
                "mean_error": mean_errors(self.names, found, truth),
                "seconds": time.monotonic() - self.started,
            }
        )


def mean_errors(names: list[str], found: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean absolute errors of readings ``[n, K]``; of angles, in radians, instead of their sines
    and cosines."""
    errors = {}
    for column, name in enumerate(names):
        circle, _, angle = name.partition(" ")
        if circle == "sin" and f"cos {angle}" in names:
            other = names.index(f"cos {angle}")
            turned = [torch.atan2(y[:, column], y[:, other]) for y in (found, truth)]
            apart = torch.remainder(turned[0] - turned[1] + math.pi, 2 * math.pi) - math.pi
            errors[angle] = float(apart.abs().mean())
        elif not (circle == "cos" and f"sin {angle}" in names):
            errors[name] = float((found[:, column] - truth[:, column]).abs().mean())
    return errors


def place_of(names: list[str]) -> tuple[int, int] | None:
    """Columns of the x and y of what is moved about: of the last place among the names."""
    pairs = [
        (i, names.index(name[:-1] + "y"))
        for i, name in enumerate(names)
        if name.endswith("x") and not _HIDDEN.search(name) and name[:-1] + "y" in names
    ]
    return pairs[-1] if pairs else None


def _regions(note: _Notes, x: Parts, y: Parts) -> None:
    """Each quarter in turn is only tested on, as by Gurnee and Tegmark (2023)."""
    place = place_of(note.names)
    if place is None:
        raise UserError(f"no target is a place, x and y, for regions: {', '.join(note.names)}.")
    columns = list(place)
    middle = y.train[:, columns].median(0).values
    quarters = [(part[:, columns] > middle).long() @ torch.tensor([1, 2]) for part in y]
    for quarter in range(4):
        inside = [found == quarter for found in quarters]
        keep = (~inside[0], ~inside[1], inside[2])
        if min(int(k.sum()) for k in keep) < 2:
            continue  # so few frames, or a place that cannot be reached
        sides = ("low", "high")
        x_name, y_name = (note.names[c] for c in columns)
        region = f"{sides[quarter % 2]} {x_name}, {sides[quarter // 2]} {y_name}"
        x_kept, y_kept = (
            Parts(*(p[k] for p, k in zip(parts, keep, strict=True))) for parts in (x, y)
        )
        note("region", region, f"{note.source}, never taught: {region}", x_kept, y_kept)


def _depths(note: _Notes, z: Parts, y: Parts) -> None:
    """Latents ``[n, 1 + T, C]`` and what is true of their frames ``[n, 1 + T, K]``."""
    for depth in range(z.train.shape[1]):
        label = f"{note.source}, {depth} steps ahead"
        truth = Parts(*(part[:, depth] for part in y))
        note("imagined", depth, label, note.narrow(*(part[:, depth] for part in z)), truth)
        # Taught on what was seen, tested on what was imagined: is it said in the same way?
        x = note.narrow(z.train[:, 0], z.val[:, 0], z.test[:, depth])
        taught = Parts(y.train[:, 0], y.val[:, 0], truth.test)
        found = read("ridge", x, taught, note.config.seed)
        note.add("imagined", depth, label, "ridge of latents", found, truth.test)


def _layers(note: _Notes, model: WorldModel, clips: list[Clips], y: Parts) -> None:
    """What blocks of the predictor hold of the frame that they help to predict."""
    for layer, x in enumerate(zip(*(activations(model, part) for part in clips), strict=True)):
        label = f"{note.source}, layer {layer}" if layer else f"{note.source}, given to layer 1"
        note("layer", layer, label, note.narrow(*x), y)


def three_parts(dataset: Dataset, held_out: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Episodes to train, to validate and to test on. Whole ones for validation, too: frames of one
    episode are near copies of each other."""
    train, test = split(dataset, held_out)
    shuffled = rng.permutation(train)
    count = max(1, len(shuffled) // 10)
    return [shuffled[count:], shuffled[:count], test]


class Clips(NamedTuple):
    """What `WorldModel.rollout` is given, with the actions that were taken.

    z: latents of the context frames ``[n, K, P, D]``.
    proprio: of the same frames ``[n, K, Dp]``.
    past: actions between them ``[n, K-1, F*A]``.
    actions: from the last of them on ``[n, T, F*A]``.
    frames: of the dataset: the last context frame, and those to be imagined, int64 ``[n, 1 + T]``.
    """

    z: Tensor
    proprio: Tensor
    past: Tensor
    actions: Tensor
    frames: np.ndarray

    def chosen(self, index: Tensor) -> Clips:
        """Some of the clips, int64 ``[m]``."""
        z, proprio, past, actions, frames = self
        return Clips(z[index], proprio[index], past[index], actions[index], frames[index.numpy()])


@torch.no_grad()
def draw_clips(
    model: WorldModel,
    encoder: Encoder,
    dataset: Dataset,
    episodes: np.ndarray,
    count: int,
    horizon: int,
    rng: np.random.Generator,
) -> Clips:
    """Up to `count` clips of these episodes, `horizon` model steps long.

    Raises:
        UserError: the episodes are too short.
    """
    skip, context = model.config.frameskip, model.config.context
    starts = [
        np.arange(f.start + skip * (context - 1), f.stop - skip * horizon)
        for f in map(dataset.frames, episodes.tolist())
    ]
    possible = np.concatenate(starts)
    if not len(possible):
        needed = skip * (context - 1 + horizon)
        raise UserError(f"no episode of {dataset.path} has {needed} actions: record longer ones")
    now = np.sort(rng.choice(possible, min(count, len(possible)), replace=False))
    past = now[:, None] + skip * np.arange(1 - context, 1)  # [n, K]
    seen = np.unique(past)
    z = latents_of(model, encoder, dataset, seen)
    steps = now[:, None] + np.arange(skip * (1 - context), skip * horizon)
    actions = torch.from_numpy(dataset.actions[steps]).unflatten(1, (-1, skip)).flatten(2)
    done, ahead = actions.split([context - 1, horizon], 1)
    return Clips(
        z[torch.from_numpy(np.searchsorted(seen, past))],
        torch.from_numpy(dataset.proprio[past]).float(),
        done,
        ahead,
        now[:, None] + skip * np.arange(horizon + 1),
    )


@torch.no_grad()
def imagine(model: WorldModel, clips: Clips) -> Tensor:
    """Latents of the last context frame and of what is imagined to follow ``[n, 1 + T, P * D]``."""
    given = (clips.z, clips.proprio, clips.past, clips.actions.unsqueeze(1))
    batches = zip(*(part.split(512) for part in given), strict=True)
    found = torch.cat([model.rollout(*batch).z[:, 0] for batch in batches])
    return torch.cat([clips.z[:, -1:], found], 1).flatten(2)


@torch.no_grad()
def activations(model: WorldModel, clips: Clips) -> list[Tensor]:
    """What the predictor is given for the first step, and what each of its blocks makes of it:
    float16 ``[n, ...]`` each."""
    found: list[list[Tensor]] = [[] for _ in range(1 + len(model.predictor.blocks))]

    def keep(layer: int, *parts: Tensor) -> None:
        found[layer].append(torch.cat([part.flatten(1) for part in parts], 1).half())

    hooks = [model.predictor.register_forward_pre_hook(lambda _, given: keep(0, *given))]
    hooks += [
        block.register_forward_hook(lambda _, given, out, layer=layer: keep(layer, out))
        for layer, block in enumerate(model.predictor.blocks, 1)
    ]
    try:
        actions = torch.cat([clips.past, clips.actions[:, :1]], 1)
        given = (clips.z, clips.proprio, actions)
        for batch in zip(*(part.split(512) for part in given), strict=True):
            model.predict(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(parts) for parts in found]


def save_probe(name: str, dataset: Dataset, targets: str, held_out: float, seed: int) -> str:
    """Teach a linear reading of the targets off the latents of a checkpoint, encoded and imagined,
    and keep it there. Returns a table of its mean absolute errors on held-out episodes."""
    model, encoder, info = load_checkpoint(name)
    names, values = targets_of(dataset, targets)
    rng = np.random.default_rng(seed)
    parts = [
        draw_clips(model, encoder, dataset, episodes, count, info.horizon, rng)
        for episodes, count in zip(
            three_parts(dataset, held_out, rng), (4000, 500, 1000), strict=True
        )
    ]
    z = [imagine(model, part) for part in parts]
    y = [torch.from_numpy(values[part.frames]).float() for part in parts]
    taught = (part.flatten(0, 1) for part in (z[0], y[0], z[1], y[1]))
    weights = linear_reading(*taught)
    errors = (z[2] @ weights[:-1] + weights[-1] - y[2]).abs()  # [n, 1 + T, targets]
    by_depth = {
        "mean": errors.mean(0).T.tolist(),
        "p95": errors.quantile(0.95, 0).T.tolist(),
    }
    rounded = {
        kind: {n: [float(f"{e:.4g}") for e in row] for n, row in zip(names, rows, strict=True)}
        for kind, rows in by_depth.items()
    }
    record(
        name,
        probe={
            "names": names,
            "weights": weights.tolist(),
            "data": dataset.env_id,
            "clips": [len(part) for part in z],
            "errors": rounded,
        },
    )
    depths = range(info.horizon + 1)
    lines = [
        f"Mean absolute error of the reading of {name}, held-out episodes (95 %):",
        "",
        "| model steps ahead | " + " | ".join(map(str, depths)) + " |",
        "|---|" + "---:|" * len(depths),
    ]
    for target in names:
        mean_of, high = rounded["mean"][target], rounded["p95"][target]
        cells = [f"{m:.4f} ({h:.4f})" for m, h in zip(mean_of, high, strict=True)]
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown tables: R^2, and mean absolute errors."""
    rows = result["results"]

    def lines(title: str, key: str, digits: int, last: str = "") -> list[str]:
        columns = list(rows[0][key])
        ending = [last] if last else []
        found = [
            f"| {title} | probe | " + " | ".join(columns + ending) + " |",
            "|---|---|" + "---:|" * len(columns + ending),
        ]
        for row in rows:
            cells = [f"{row[key][name]:.{digits}f}" for name in columns]
            cells += [f"{row['mean_r2']:.3f}"] if last else []
            found.append(f"| {row['encoder']} | {row['probe']} | " + " | ".join(cells) + " |")
        return found

    return "\n".join(
        [*lines("encoder", "r2", 3, "mean"), "", *lines("mean error", "mean_error", 4)]
    )


# Okabe and Ito's colours, which everybody can tell apart.
LOOKS = {
    "ridge": ("o-", "#0072B2"),
    "MLP": ("s-", "#D55E00"),
    "ridge of latents": ("^--", "#009E73"),
}


def draw(result: dict[str, Any], source: str, kind: str) -> bytes:
    """A PNG: R^2 of a checkpoint's rows of one kind, "imagined" or "layer", one target a panel."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = [row for row in result["results"] if row["source"] == source and row["kind"] == kind]
    names = list(rows[0]["r2"])
    across = min(3, len(names))
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(1 + 2.6 * across, 0.9 + 2 * down), layout="constrained")
    panels = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    for panel, name in zip(panels, names, strict=False):
        for probe, (look, colour) in LOOKS.items():
            shown = [(row["at"], row["r2"][name]) for row in rows if row["probe"] == probe]
            if shown:
                at, score = zip(*shown, strict=True)
                panel.plot(at, score, look, color=colour, ms=4, lw=1.2, label=probe)
        panel.set_title(name, fontsize=10)
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    lowest = min(min(row["r2"].values()) for row in rows)
    panels[0].set_ylim(max(-0.1, lowest - 0.15 * (1.02 - lowest)), 1 + 0.05 * (1.02 - lowest))
    what = {"imagined": "model steps ahead", "layer": "layer of the predictor; 0: what it is given"}
    figure.supxlabel(what[kind], fontsize=10)
    figure.supylabel("R² on held-out episodes", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return as_png(figure)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


@run
def main(argv: list[str] | None = None) -> None:
    """Command line; exits with 2 on a user error."""
    description = "Measure how much of the state frozen tokens and latents hold."
    config = parse_config(ProbeConfig, argv, "worldmodel.probe", description)
    if not _listed(config.encoders) and not _listed(config.checkpoints):
        raise UserError("encoders and checkpoints are empty; name at least one, such as dino-112.")
    if config.plots:
        writable_folder(Path(config.plots))
    result = probe(config)
    print(table(result))
    dataset = open_dataset(config.data)
    for name in _listed(config.checkpoints) if config.save else ():
        print()
        print(save_probe(name, dataset, config.targets, config.held_out, config.seed))
    if config.out:
        atomic_write_json(config.out, result)
    drawn = {(row["source"], row["kind"]) for row in result["results"]} if config.plots else ()
    for source, kind in sorted(drawn):
        if kind in ("imagined", "layer"):
            path = Path(config.plots) / f"{Path(source).name}-{kind}.png"
            atomic_write_bytes(path, draw(result, source, kind))
            print(f"wrote {path}")
