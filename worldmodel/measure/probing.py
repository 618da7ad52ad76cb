"""How much of the simulator's state probes read from frozen tokens and from latents.

    python -m worldmodel.probe --data data/pusht --encoders ibot-112,random-112 --out probe.json
    python -m worldmodel.probe --data data/pusht --encoders "" --checkpoints pusht --kinds all

The result holds R^2 and mean absolute errors on held-out episodes. An encoder is probed by its
patch tokens of single frames: ridge regression on their principal components, and a small attention
probe. A checkpoint is probed by ridge regression and by an MLP (`worldmodel.measure.readout`), on
the kinds of features that ``--kinds`` names:

    latents   encoded latents of single frames, always
    imagined  latents imagined 0 to T model steps ahead under the recorded actions: with probes
              fitted at each depth, and with the probe of depth 0 ("ridge of latents")
    looks     patch tokens and latents of test frames in other looks (`worldmodel.training.looks`),
              read by the probes of frames as recorded
    layers    inputs of the predictor (0) and outputs of each of its blocks in one model step, for
              the state of the predicted frame
    regions   as latents, but one quarter of the workspace is left out of training and tested on
              (Gurnee and Tegmark 2023)
    distance  rank correlation of distances between two frames of an episode, of latents and of
              plain tokens, with the model steps between them and with the task's own distance
    shuffled  latents, imagined and layers, with permuted targets: the control task of Hewitt and
              Liang (2019), with an R^2 near 0
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.cli.device import pick_device
from worldmodel.data.dataset import Dataset, open_dataset, split
from worldmodel.encoders.encoder import Encoder, load_encoder
from worldmodel.errors import UserError
from worldmodel.measure.distances import distance_correlations
from worldmodel.measure.probe_targets import listed, mean_errors, position_columns, targets_of
from worldmodel.measure.readout import Parts, narrow, r2, read
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.latents import (
    LatentClips,
    draw_latent_clips,
    encode_frames,
    frames_of,
    imagine,
    latents_of,
)
from worldmodel.models.world_model import WorldModel
from worldmodel.training.looks import LookedFrames

KINDS = ("latents", "looks", "imagined", "layers", "regions", "distance", "shuffled")


@dataclass(frozen=True)
class ProbeConfig:
    """What to probe.

    Attributes:
        data: dataset folder whose episodes recorded the simulator's state.
        encoders: names separated by commas; "name=weights" gives one its local weights.
        checkpoints: world models: names or folders, separated by commas.
        kinds: kinds of features: latents, looks, imagined, layers, regions, distance, shuffled,
            separated by commas; or all. Encoders have looks only.
        targets: names of what the image shows, separated by commas; empty means all but velocities,
            "all" includes these. An angle is replaced by its sine and cosine.
        frames: number of frames.
        clips: number of clips, for imagined and layers.
        components: principal components that ridge and MLP get of features with more numbers.
        save: store a linear probe of the targets with each checkpoint, for guardrails.
        held_out: fraction of the episodes to measure on.
        seed: seed of the samples and of the probes.
        device: auto, cpu, cuda or mps, for encoders and world models; probes are on the CPU.
        plots: folder for plots of R^2 by depth and by layer; empty draws none.
        out: JSON file for the result; empty writes none.
    """

    data: str
    encoders: str = "ibot-112,random-112"
    checkpoints: str = ""
    kinds: str = "latents"
    save: bool = False
    targets: str = ""
    frames: int = 20_000
    clips: int = 5000
    components: int = 1024
    held_out: float = 0.1
    seed: int = 0
    device: str = "auto"
    plots: str = ""
    out: str = ""

    def __post_init__(self) -> None:
        if min(self.frames, self.clips) < 100 or self.components < 1:
            raise UserError(
                f"frames is {self.frames}, clips {self.clips} and components {self.components}: "
                "use at least 100 frames, 100 clips and 1 component"
            )
        unknown = set(listed(self.kinds)) - {*KINDS, "all"}
        if unknown:
            raise UserError(
                f"kinds has {', '.join(sorted(unknown))}: use {', '.join(KINDS)}, or all"
            )
        if not listed(self.encoders) and not listed(self.checkpoints):
            raise UserError("encoders and checkpoints are empty: name at least one, as ibot-112")

    @property
    def chosen(self) -> set[str]:
        """The kinds as a set."""
        kinds = set(listed(self.kinds))
        return set(KINDS) if "all" in kinds else kinds


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Probe every encoder and checkpoint; returns the content of ``--out``.

    Raises:
        UserError: the dataset recorded no state or has fewer than 3 episodes.
    """
    dataset = open_dataset(config.data)
    names, values = targets_of(dataset, config.targets)
    if dataset.episodes < 3:
        raise UserError(f"{config.data} has {dataset.episodes} episodes: a probe needs 3 or more")
    rng = np.random.default_rng(config.seed)
    episodes = three_parts(dataset, config.held_out, rng)
    frames = [frames_of(dataset, part) for part in episodes]
    fraction = min(1.0, config.frames / sum(map(len, frames)))
    frames = [np.sort(rng.permutation(f)[: max(2, round(len(f) * fraction))]) for f in frames]
    y = Parts(*(torch.from_numpy(values[part]).float() for part in frames))
    every, counts = np.concatenate(frames), [len(part) for part in frames]

    rows: list[dict[str, Any]] = []
    distances: dict[str, Any] = {}
    device = pick_device(config.device)
    looked: list[LookedFrames] = []
    if "looks" in config.chosen:
        looked = [LookedFrames(dataset, counts[2], episodes[2], config.seed, device)]
    changed = sum(map(len, looked))
    truths_of_looks = [torch.from_numpy(values[each.rows]).float() for each in looked]
    y_of_looks = y._replace(test=torch.cat([y.test, *truths_of_looks]))
    for spec in listed(config.encoders):
        name, _, weights = spec.partition("=")
        encoder = load_encoder(name, weights or None).to(device)
        log = ProbeLog(rows, spec, encoder, names, config)
        tokens = Parts(*encode_frames(encoder, dataset, every).split(counts))
        others = [encode_frames(encoder, each, np.arange(len(each))) for each in looked]
        tokens = tokens._replace(test=torch.cat([tokens.test, *others]))
        log.probe("encoder", None, spec, log.narrow(*tokens), y_of_looks, ("ridge",), changed)
        log.probe("encoder", None, spec, tokens, y_of_looks, ("attention",), changed)
    for name in listed(config.checkpoints):
        model, encoder, info = load_checkpoint(name, device)
        log = ProbeLog(rows, name, encoder, names, config)
        z = Parts(*latents_of(model, encoder, dataset, every).split(counts))
        others = [latents_of(model, encoder, each, np.arange(len(each))) for each in looked]
        x = log.narrow(*z._replace(test=torch.cat([z.test, *others])))
        log.probe("latents", None, f"latents of {name}", x, y_of_looks, looked=changed)
        x = x._replace(test=x.test[: counts[2]])
        if "distance" in config.chosen:
            parts = model, encoder, dataset, episodes[2]
            distances[name] = distance_correlations(*parts, config.seed)
        if "regions" in config.chosen:
            probe_regions(log, x, y)
        if config.chosen & {"imagined", "layers"}:
            shares = [max(2, round(config.clips * n / sum(counts))) for n in counts]
            clips = [
                draw_latent_clips(model, encoder, dataset, part, count, info.horizon, rng)
                for part, count in zip(episodes, shares, strict=True)
            ]
            truths = [torch.from_numpy(values[part.frames]).float() for part in clips]
            if "imagined" in config.chosen:
                probe_depths(log, Parts(*(imagine(model, part) for part in clips)), Parts(*truths))
            if "layers" in config.chosen:
                probe_layers(log, model, clips, Parts(*(truth[:, 1] for truth in truths)))
    return {
        "data": config.data,
        "data_hash": dataset.hash,
        "frames": dict(zip(Parts._fields, counts, strict=True)),
        "clips": config.clips,
        "held_out_episodes": len(episodes[2]),
        "components": config.components,
        "seed": config.seed,
        "results": rows,
        **({"distances": distances} if distances else {}),
    }


def three_parts(dataset: Dataset, held_out: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Episodes for training, validation and test. Validation gets whole episodes, too: frames of
    one episode are nearly the same."""
    train, test = split(dataset, held_out)
    shuffled = rng.permutation(train)
    count = max(1, len(shuffled) // 10)
    return [shuffled[count:], shuffled[:count], test]


class ProbeLog:
    """Fits probes to features of one encoder or checkpoint, and appends their scores to `rows`."""

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

    def narrow(self, *features: Tensor) -> Parts:
        """`readout.narrow` of the features for training, validation and test."""
        return narrow(Parts(*features), self.config.components, self.config.seed)

    def probe(
        self,
        kind: str,
        at: int | str | None,
        label: str,
        x: Parts,
        y: Parts,
        probes: tuple[str, ...] = ("ridge", "MLP"),
        looked: int = 0,
    ) -> None:
        """Fit probes of targets y to features x; `kind` and `at` name the features, `label` does so
        for people. The last `looked` frames to test on are in other looks."""
        seed, plain = self.config.seed, len(y.test) - looked
        for name in probes:
            found = read(name, x, y, seed)
            self.add(kind, at, label, name, found[:plain], y.test[:plain])
            if looked:
                self.add("looks", at, f"{label}, other looks", name, found[plain:], y.test[plain:])
        x, y = (part._replace(test=part.test[:plain]) for part in (x, y))
        if "shuffled" in self.config.chosen and kind in ("latents", "imagined", "layer"):
            g = torch.Generator().manual_seed(seed)
            y = Parts(*(part[torch.randperm(len(part), generator=g)] for part in y))
            for name in probes:
                self.add("shuffled", at, f"{label}, shuffled", name, read(name, x, y, seed), y.test)
                self.rows[-1]["of"] = kind

    def add(
        self, kind: str, at: int | str | None, label: str, name: str, found: Tensor, truth: Tensor
    ) -> None:
        """Append the scores of predictions ``[n, K]`` against the truth ``[n, K]``."""
        scores = [round(float(score), 5) for score in r2(found, truth)]
        errors = mean_errors(self.names, found, truth)
        self.rows.append(
            {
                "encoder": label,
                "encoder_hash": self.encoder.hash,
                "source": self.source,
                "kind": kind,
                "at": at,
                "probe": name,
                "r2": dict(zip(self.names, scores, strict=True)),
                "mean_r2": float(np.mean(scores)),
                "mean_error": {target: float(f"{e:.5g}") for target, e in errors.items()},
                "seconds": round(time.monotonic() - self.started, 1),
            }
        )


def probe_regions(log: ProbeLog, x: Parts, y: Parts) -> None:
    """Probes tested on one quarter of the workspace and trained on the other three.

    Raises:
        UserError: no target is a position.
    """
    columns = position_columns(log.names)
    if columns is None:
        raise UserError(f"regions needs a target with x and y: targets are {', '.join(log.names)}")
    middle = y.train[:, list(columns)].median(0).values
    quarters = [(part[:, list(columns)] > middle).long() @ torch.tensor([1, 2]) for part in y]
    sides, (x_name, y_name) = ("low", "high"), (log.names[column] for column in columns)
    for quarter in range(4):
        inside = [numbers == quarter for numbers in quarters]
        rows = (~inside[0], ~inside[1], inside[2])
        if min(int(chosen.sum()) for chosen in rows) < 2:
            continue  # the quarter has too few frames, or nothing reaches it
        region = f"{sides[quarter % 2]} {x_name}, {sides[quarter // 2]} {y_name}"
        x_part, y_part = (
            Parts(*(p[chosen] for p, chosen in zip(parts, rows, strict=True))) for parts in (x, y)
        )
        log.probe("region", region, f"{log.source}, trained without {region}", x_part, y_part)


def probe_depths(log: ProbeLog, z: Parts, y: Parts) -> None:
    """Probes of latents ``[n, 1 + T, C]`` at each depth; targets y ``[n, 1 + T, K]``."""
    for depth in range(z.train.shape[1]):
        label = f"{log.source}, {depth} steps ahead"
        truth = Parts(*(part[:, depth] for part in y))
        log.probe("imagined", depth, label, log.narrow(*(part[:, depth] for part in z)), truth)
        # Trained on encoded latents, tested on imagined ones: do both have the same code?
        x = log.narrow(z.train[:, 0], z.val[:, 0], z.test[:, depth])
        encoded = Parts(y.train[:, 0], y.val[:, 0], truth.test)
        found = read("ridge", x, encoded, log.config.seed)
        log.add("imagined", depth, label, "ridge of latents", found, truth.test)


def probe_layers(log: ProbeLog, model: WorldModel, clips: list[LatentClips], y: Parts) -> None:
    """Probes of the predictor's blocks for the state of the frame that they predict."""
    for layer, x in enumerate(zip(*(activations(model, part) for part in clips), strict=True)):
        label = f"{log.source}, layer {layer}" if layer else f"{log.source}, input of layer 1"
        log.probe("layer", layer, label, log.narrow(*x), y)


@torch.no_grad()
def activations(model: WorldModel, clips: LatentClips) -> list[Tensor]:
    """The inputs of the predictor in the first model step, and the output of each of its blocks:
    float16 ``[n, ...]`` each."""
    found: list[list[Tensor]] = [[] for _ in range(1 + len(model.predictor.blocks))]

    def keep(layer: int, *parts: Tensor) -> None:
        found[layer].append(torch.cat([part.flatten(1) for part in parts], 1).half().cpu())

    hooks = [model.predictor.register_forward_pre_hook(lambda _, inputs: keep(0, *inputs))]
    hooks += [
        block.register_forward_hook(lambda _, inputs, out, layer=layer: keep(layer, out))
        for layer, block in enumerate(model.predictor.blocks, 1)
    ]
    try:
        actions = torch.cat([clips.past, clips.actions[:, :1]], 1)
        inputs = (clips.z, clips.proprio, actions)
        for batch in zip(*(part.split(512) for part in inputs), strict=True):
            model.predict(*(part.to(model.action_low.device) for part in batch))
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(parts) for parts in found]
