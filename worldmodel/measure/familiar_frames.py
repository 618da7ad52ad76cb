"""Which frames the data showed, stored with a checkpoint for the guardrail ``familiar``.

    python -m worldmodel.familiar --data data/pusht --checkpoint pusht

`worldmodel.control.familiarity` measures distances to these frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worldmodel.cli.device import pick_device
from worldmodel.control.familiarity import Familiar
from worldmodel.control.guardrails import parse_rules, permitted
from worldmodel.data.dataset import open_dataset, split
from worldmodel.errors import UserError
from worldmodel.measure.environments import dataset_task
from worldmodel.models.checkpoint import load_checkpoint, write_finding
from worldmodel.models.latents import frames_of, latents_of

TESTED = 2000  # held-out frames that set the unit
FEWEST = 10  # frames that still give a distribution


@dataclass(frozen=True)
class FamiliarConfig:
    """Which frames to store.

    Attributes:
        data: dataset folder that the checkpoint was trained on, or more of its kind.
        checkpoint: bundled name, folder or hf:USER/NAME.
        frames: number of frames.
        axes: number of principal axes.
        level: fraction of held-out frames with a distance above 1.
        without: guardrails; frames that violate one are left out, as if the data had not shown
            them; may be given again.
        held_out: fraction of the episodes that set the unit.
        seed: seed of the sample.
        device: auto, cpu, cuda or mps.
    """

    data: str
    checkpoint: str
    frames: int = 2000
    axes: int = 16
    level: float = 0.01
    without: list[str] = field(default_factory=list)
    held_out: float = 0.1
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("frames", "axes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 < self.level < 1:
            raise UserError(f"level is {self.level}: it must lie between 0 and 1")
        parse_rules(self.without)


@torch.no_grad()
def store_familiar(config: FamiliarConfig) -> str:
    """Choose frames, store them with the checkpoint; returns a sentence about them.

    Raises:
        UserError: the dataset is of another environment, or has too few frames.
    """
    model, encoder, info = load_checkpoint(config.checkpoint, pick_device(config.device))
    dataset = open_dataset(config.data)
    if dataset.env_id != info.env_id:
        raise UserError(f"{config.data} is of {dataset.env_id}, the checkpoint of {info.env_id}")
    rules = parse_rules(config.without)
    if rules and dataset.state is None:
        raise UserError(f"{config.data} recorded no state: --without cannot be decided")
    task = dataset_task(dataset) if rules else None
    rng = np.random.default_rng(config.seed)

    def sample(episodes: np.ndarray, count: int) -> Tensor:
        """Latents and proprioception ``[n, C]`` of at most `count` frames of these episodes."""
        frames = rng.permutation(frames_of(dataset, episodes))
        if rules:
            states = dataset.state
            assert states is not None and task is not None
            frames = frames[: 4 * count]
            frames = frames[[permitted(rules, task, states[i], states[i]) for i in frames]]
        frames = np.sort(frames[:count])
        z = latents_of(model, encoder, dataset, frames).flatten(1)
        numbers = torch.cat([z, torch.from_numpy(dataset.proprio[frames]).float()], 1)
        return numbers[torch.from_numpy(rng.permutation(len(numbers)))]

    train, held_out = split(dataset, config.held_out)
    shown, others = sample(train, config.frames), sample(held_out, TESTED)
    if min(len(shown), len(others)) < FEWEST:
        raise UserError(f"{config.data} has too few frames that satisfy {config.without}")
    found = Familiar.learn(shown, others, config.frames, config.axes, config.level)
    path = write_finding(config.checkpoint, "familiar", found.arrays())
    typical = found.nearest(others).median().item()
    return (
        f"{path}: stored {len(found.frames)} frames; held-out frames have a median "
        f"distance of {typical:.2f}, {100 * (1 - config.level):g} % are within 1"
    )
