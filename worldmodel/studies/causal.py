"""Does the imagined future follow what a probe reads? Move it in the latents, and look.

    python -m worldmodel.causal --data data/pusht --checkpoint pusht

A probe may read what the predictor has no use for. So, as with Othello-GPT (Li et al. 2023, Nanda
et al. 2023), the latents of all context frames are edited such that the block (in the maze, the
ball) is read to be a few centimetres farther along an axis, or back; the model imagines on under
the same actions; and linear probes that were taught on what is imagined, one for each depth, say
where it is then, less where it is in the untouched future. Edits:

    reading  the shortest, in standardised latents, that changes this reading of a linear probe and
             none of its others: a column of the pseudo-inverse of its weights
    means    the mean latents of the frames that show it nearest to where it shall be, less those
             nearest to where it is: for latents in which places are not linear
    random   the control of either: a random direction, another one in each case, and as long in
             standardised latents
    proprio  where the robot measures the quantity itself, as in the maze: its measurement is moved,
             too, or alone

Reported are the share of cases in which it moves the way that was intended, with a Wilson 95 %
interval, and the median shift as a share of the intended one. But a block that was moved may really
be pushed back, and a ball run into a wall: so the simulator does the same, from the state with the
block moved. Where its future is moved by a third of the intended shift or more, the imagined one
should move the same way: that share is reported as well, beside that of a predictor that would only
copy the edit ("copied"). Only places where the data shows it are moved to. Cases of one episode are
alike: intervals are rather too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.cli import atomic_write_bytes, atomic_write_json, parse_config, run, writable_folder
from worldmodel.data.dataset import Dataset, open_dataset
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.measure.film import as_png
from worldmodel.measure.probe_targets import position_columns, targets_of
from worldmodel.measure.probing import three_parts
from worldmodel.measure.readout import linear_reading, r2
from worldmodel.measure.statistics import in_percent, rate_interval
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.latents import LatentClips, draw_latent_clips, imagine
from worldmodel.models.world_model import WorldModel

LARGEST = 4096  # numbers in the latents of a frame, for which a linear probe is solved
NEAREST = 32  # frames whose latents are averaged
TOLD = 1 / 3  # of the intended shift, from which on the simulator says where it moves


@dataclass(frozen=True)
class CausalConfig:
    """What to edit, and how often.

    Attributes:
        data: dataset folder whose episodes recorded the simulator's state.
        checkpoint: bundled name or folder.
        targets: state names that the probe reads, separated by commas; empty means all but
            velocities. The last of them that are a place, x and y, are moved.
        shift: how far, in metres.
        clips: that teach the probes.
        cases: clips of held-out episodes that are edited, each in four directions.
        held_out: share of the episodes.
        seed: of the draw and of the control.
        out: folder for causal.json and causal.png; empty writes none.
    """

    data: str = "data/pusht"
    checkpoint: str = "pusht"
    targets: str = ""
    shift: float = 0.03
    clips: int = 3000
    cases: int = 400
    held_out: float = 0.25
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise UserError(f"shift is {self.shift}: it must be above 0")
        if self.clips < 100 or self.cases < 1:
            raise UserError(
                f"clips is {self.clips} and cases {self.cases}: it takes at least 100 and 1"
            )


@dataclass(frozen=True, eq=False)
class Editor:
    """How to move a place in latents.

    z: latents of training frames ``[n, C]``.
    y: what is true of them ``[n, K]``.
    weights: of a linear reading, ``[C + 1, K]``.
    place: the columns of y that are moved.
    """

    z: Tensor
    y: Tensor
    weights: Tensor
    place: tuple[int, int]

    @property
    def spread(self) -> Tensor:
        """Standard deviations of latents ``[C]``."""
        return self.z.std(0).clamp_min(1e-6)

    def nearest(self, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Distances of the training frames that show it nearest to where it is in y ``[m, K]``, and
        which frames they are, ``[m, count]`` both."""
        places = self.y[:, list(self.place)]
        found = torch.cdist(y[:, list(self.place)], places).topk(count, largest=False)
        return found.values, found.indices

    def reading(self, now: Tensor, then: Tensor) -> Tensor:
        """An edit of the latents ``[m, C]``, from what is true ``[m, K]`` now to what shall be."""
        slope = self.weights[:-1].double() * self.spread[:, None]
        columns = torch.linalg.pinv(slope)  # [K, C]
        return ((then - now).double() @ columns).float() * self.spread

    def means(self, now: Tensor, then: Tensor) -> Tensor:
        """As `reading`."""
        count = min(NEAREST, len(self.z))
        there, here = (self.z[self.nearest(y, count)[1]].mean(1) for y in (then, now))
        return there - here

    def random(self, edit: Tensor, g: torch.Generator) -> Tensor:
        """Random directions, as long as `edit` ``[m, C]``."""
        drawn = torch.randn(edit.shape, generator=g)
        length = (edit / self.spread).norm(dim=1, keepdim=True)
        return drawn / drawn.norm(dim=1, keepdim=True) * length * self.spread


def moved(
    model: WorldModel,
    clips: LatentClips,
    edit: Tensor,
    slopes: Tensor,
    measured: Tensor | None = None,
) -> Tensor:
    """By how much an edit ``[m, C]`` of all context frames, and one of proprio ``[Dp]``, changes
    what is read of each imagined frame ``[m, T]``. `slopes`: of that reading, ``[T, C]``."""
    z = clips.z + edit.unflatten(1, clips.z.shape[2:]).unsqueeze(1)
    proprio = clips.proprio if measured is None else clips.proprio + measured
    edited = clips._replace(z=z, proprio=proprio)
    change = (imagine(model, edited) - imagine(model, clips))[:, 1:]  # [m, T, C]
    return (change * slopes).sum(-1)


def simulated(world: Any, dataset: Dataset, frames: np.ndarray, name: str, shift: float) -> Tensor:
    """By how much the simulator's future ``[m, T]`` of a state name changes if it is moved by
    `shift` in the first of the frames ``[m, 1 + T]``, under the actions that were taken."""
    assert dataset.state is not None
    column = dataset.state_names.index(name)
    found = []
    for path in frames:
        actions, at = dataset.actions[path[0] : path[-1]], path[1:] - path[0]
        start = dataset.state[path[0]]
        other = start.copy()
        other[column] += shift
        ends = [world.physics(state, actions)[at, column] for state in (other, start)]
        found.append(ends[0] - ends[1])
    return torch.from_numpy(np.stack(found)).float()


def causal(config: CausalConfig) -> dict[str, Any]:
    """Edit, imagine and compare; what it returns is what ``causal.json`` gets.

    Raises:
        UserError: nothing among the targets is a place, or anything else in `config`.
    """
    dataset = open_dataset(config.data)
    names, values = targets_of(dataset, config.targets)
    place = position_columns(names)
    if place is None:
        raise UserError(f"no target is a place, x and y, that could move: {', '.join(names)}.")
    model, encoder, info = load_checkpoint(config.checkpoint)
    size = info.model.tokens * info.model.dim
    if size > LARGEST:
        raise UserError(
            f"{config.checkpoint} has {size} numbers in the latents of a frame; this is for "
            f"{LARGEST} or fewer."
        )
    rng = np.random.default_rng(config.seed)
    episodes = three_parts(dataset, config.held_out, rng)
    counts = (config.clips, max(100, config.clips // 8), config.cases)
    parts = [
        draw_latent_clips(model, encoder, dataset, some, count, info.horizon, rng)
        for some, count in zip(episodes, counts, strict=True)
    ]
    y = [torch.from_numpy(values[part.frames]).float() for part in parts]  # [n, 1 + T, K]
    z = [imagine(model, part) for part in parts]  # [n, 1 + T, C]
    weights = [
        linear_reading(z[0][:, depth], y[0][:, depth], z[1][:, depth], y[1][:, depth])
        for depth in range(1 + info.horizon)
    ]
    score = torch.stack(
        [r2(z[2][:, d] @ w[:-1] + w[-1], y[2][:, d])[list(place)] for d, w in enumerate(weights)]
    )
    readable = dict(zip((names[c] for c in place), score.T.tolist(), strict=True))
    if score[0].min() < 0.5:
        said = ", ".join(
            f"{name} with R^2 {by_depth[0]:.2f}" for name, by_depth in readable.items()
        )
        raise UserError(
            f"{config.checkpoint} does not show what should be moved: linear probes read {said}. "
            "Name others as targets, or give more clips."
        )
    editor = Editor(z[0][:, 0], y[0][:, 0], weights[0], place)
    env = make_env(dataset.env_id, dataset.env_kwargs, dataset.pixels_shape[0])
    g = torch.Generator().manual_seed(config.seed)
    found: dict[str, dict[str, Tensor]] = {}  # direction and edit to shares of the shift [m, T]
    for column, sign in ((c, s) for c in place for s in (1, -1)):
        name, shift = names[column], sign * config.shift
        now = y[2][:, 0]
        then = now.clone()
        then[:, column] += shift
        known = (editor.nearest(then, 1)[0][:, 0] < config.shift / 4).nonzero()[:, 0]
        if not len(known):
            continue
        clips = parts[2].select(known)
        slopes = torch.stack([w[:-1, column] for w in weights[1:]])
        shifts = {"simulator": simulated(env.unwrapped, dataset, clips.frames, name, shift)}
        for kind, make in (("reading", editor.reading), ("means", editor.means)):
            edit = make(now[known], then[known])
            control = editor.random(edit, g)
            shifts[kind] = moved(model, clips, edit, slopes)
            shifts[f"random, as {kind}"] = moved(model, clips, control, slopes)
            if name in dataset.proprio_names:
                measured = torch.zeros(clips.proprio.shape[-1])
                measured[dataset.proprio_names.index(name)] = shift
                shifts[f"{kind} and proprio"] = moved(model, clips, edit, slopes, measured)
                shifts["proprio alone"] = moved(model, clips, 0 * edit, slopes, measured)
        shifts["copied"] = torch.full_like(shifts["simulator"], shift)
        found[f"{name} {shift:+g}"] = {kind: each / shift for kind, each in shifts.items()}
    env.close()
    if not found:
        raise UserError(
            f"{config.data} shows nothing {config.shift} m beside any of {config.cases} cases: "
            "try a smaller shift, or more clips."
        )
    kinds = next(iter(found.values()))
    both = {"all": {kind: torch.cat([f[kind] for f in found.values()]) for kind in kinds}, **found}
    return {
        "data": config.data,
        "data_hash": dataset.hash,
        "checkpoint": config.checkpoint,
        "shift": config.shift,
        "clips": [len(part.z) for part in parts],
        "held_out_episodes": len(episodes[2]),
        "seed": config.seed,
        "r2": readable,
        "results": [
            {"moved": direction, "edit": kind, **judged(shares, by["simulator"])}
            for direction, by in both.items()
            for kind, shares in by.items()
        ],
    }


def judged(shares: Tensor, truth: Tensor) -> dict[str, Any]:
    """What is reported of shifts ``[m, T]`` that the readings and the simulator say, as shares of
    the intended one; lists have an entry for each depth."""
    agrees, count = [], []
    for share, true in zip(shares.T, truth.T, strict=True):
        told = true.abs() >= TOLD
        count.append(int(told.sum()))
        same = share[told].sign() == true[told].sign()
        agrees.append(rate_interval(same.numpy()) if len(same) else None)
    return {
        "n": len(shares),
        "right": [rate_interval(share.numpy() > 0) for share in shares.T],
        "median_share": shares.median(0).values.tolist(),
        "agrees": agrees,
        "agrees_n": count,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown tables: all directions in full, each direction by `reading`."""
    rows = result["results"]
    depths = range(1, 1 + len(rows[0]["right"]))
    head = [" | ".join(map(str, depths)) + " |", "---:|" * len(depths)]

    def share(r: dict[str, float] | None) -> str:
        return "-" if r is None else in_percent(r)

    lines = [
        f"{result['checkpoint']}, moved by {result['shift']} m, {result['held_out_episodes']} "
        "held-out episodes. Share of cases that move as intended, and median of the shift by the "
        "intended one, by model steps ahead:",
        "",
        f"| moved | edit | n | {head[0]}",
        f"|---|---|---:|{head[1]}",
    ]
    for row in rows:
        if row["edit"] == "copied":
            continue
        if row["moved"] == "all" or row["edit"] in ("simulator", "reading", "random, as reading"):
            cells = [
                f"{share(r)}, {m:+.2f}"
                for r, m in zip(row["right"], row["median_share"], strict=True)
            ]
            lines.append(f"| {row['moved']} | {row['edit']} | {row['n']} | {' | '.join(cells)} |")
    lines += [""] + [
        f"R^2 of what is read of {name}, 0 to {len(scores) - 1} model steps ahead: "
        + ", ".join(f"{score:.3f}" for score in scores)
        for name, scores in result["r2"].items()
    ]
    lines += [
        "",
        "Share of cases that move as in the simulator, where that moves by a third of the intended "
        "shift or more:",
        "",
        f"| edit | {head[0]}",
        f"|---|{head[1]}",
    ]
    for row in rows:
        if row["moved"] == "all" and row["edit"] != "simulator":
            lines.append(f"| {row['edit']} | {' | '.join(map(share, row['agrees']))} |")
    lines.append(f"| n | {' | '.join(map(str, rows[0]['agrees_n']))} |")
    return "\n".join(lines)


LOOKS = {  # Okabe and Ito's colours, which everybody can tell apart
    "simulator": ("D--", "#000000"),
    "copied": ("--", "#666666"),
    "reading": ("o-", "#D55E00"),
    "means": ("s-", "#E69F00"),
    "reading and proprio": ("v-", "#CC79A7"),
    "random, as reading": ("o:", "#0072B2"),
    "random, as means": ("s:", "#56B4E9"),
}


def draw(result: dict[str, Any]) -> bytes:
    """A PNG: how often, and how far, the future moves with the edit, by depth."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    rows = {row["edit"]: row for row in result["results"] if row["moved"] == "all"}
    for at, (kind, (look, colour)) in enumerate(LOOKS.items()):
        if kind not in rows:
            continue
        row = rows[kind]
        if kind == "copied":  # all of it, all the time: only what the simulator says of it is news
            known = [100 * r["rate"] if r else np.nan for r in row["agrees"]]
            panels[2].plot(range(1, 1 + len(known)), known, look, color=colour, lw=1.2, label=kind)
            continue
        depth = np.arange(1, 1 + len(row["right"])) + 0.04 * (at - 2.5)
        for panel, key in ((panels[0], "right"), (panels[2], "agrees")):
            if key == "agrees" and kind == "simulator":
                continue
            at_all = [i for i, r in enumerate(row[key]) if r is not None]
            rate, low, high = (
                np.array([100 * row[key][i][name] for i in at_all])
                for name in ("rate", "low", "high")
            )
            bars = [rate - low, high - rate]
            panel.errorbar(depth[at_all], rate, bars, fmt=look, color=colour, ms=4, lw=1.2)
        panels[1].plot(depth, row["median_share"], look, color=colour, ms=4, lw=1.2, label=kind)
    titles = (
        "cases that move as intended, %",
        "median shift / intended shift",
        "cases that move as in the simulator, %",
    )
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlabel("model steps ahead")
    for panel in (panels[0], panels[2]):
        panel.axhline(50, color="#666666", lw=0.8)
        panel.set_ylim(0, 103)
    figure.legend(
        loc="outside upper center", ncols=len(LOOKS), columnspacing=1.2, frameon=False, fontsize=9
    )
    return as_png(figure)


@run
def main(argv: list[str] | None = None) -> None:
    """Command line; exits with 2 on a user error."""
    config = parse_config(
        CausalConfig, argv, "worldmodel.causal", "Edit latents, and see whether futures follow."
    )
    if config.out:
        writable_folder(Path(config.out))
    result = causal(config)
    print(table(result))
    if config.out:
        atomic_write_json(Path(config.out) / "causal.json", result)
        atomic_write_bytes(Path(config.out) / "causal.png", draw(result))
        print(f"wrote {Path(config.out) / 'causal.png'}")
