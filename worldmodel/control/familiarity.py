"""What the data showed, so that plans keep to it.

    python -m worldmodel.familiar --data data/pusht --checkpoint pusht

A model knows nothing of what its data did not show, and planners find just that. So frames of the
data are kept with the checkpoint, latents and proprio along their principal axes; how far something
imagined is from the nearest of them tells whether the model can know anything of it (deep nearest
neighbours: Sun et al. 2022). The unit is the distance within which 99 % of the frames of held-out
episodes lie; ``--guardrail familiar:1`` lets no plan go farther.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.cli import parse_config, run
from worldmodel.control.guardrails import parse_rules, permitted
from worldmodel.data.dataset import open_dataset, split
from worldmodel.errors import UserError
from worldmodel.measure.probing import frames_of, latents_of
from worldmodel.models.checkpoint import CheckpointInfo, load_checkpoint, record
from worldmodel.models.world_model import principal_axes


@dataclass(frozen=True)
class FamiliarConfig:
    """What to remember.

    Attributes:
        data: folder of the data that the checkpoint learnt from, or of more like it.
        checkpoint: bundled name or folder.
        frames: how many frames to keep.
        axes: along how many principal axes.
        level: share of the frames of held-out episodes that are farther than 1.
        without: guardrails; frames that break one are left out, as if the data had never shown
            them; may be given again.
        held_out: share of the episodes that distances are measured on.
        seed: of the draw.
    """

    data: str
    checkpoint: str
    frames: int = 2000
    axes: int = 16
    level: float = 0.01
    without: list[str] = field(default_factory=list)
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("frames", "axes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 < self.level < 1:
            raise UserError(f"level is {self.level}: it must lie between 0 and 1")
        parse_rules(self.without)


@dataclass(frozen=True, eq=False)
class Familiar:
    """Frames that the data showed.

    mean: of latents and proprio side by side ``[C]``.
    axes: to few numbers ``[C, n]``, in units of the distance that is still familiar.
    frames: those that are kept ``[M, n]``.
    """

    mean: Tensor
    axes: Tensor
    frames: Tensor

    @classmethod
    def of(cls, info: CheckpointInfo, device: torch.device) -> Familiar:
        """What a checkpoint remembers.

        Raises:
            UserError: nothing.
        """
        if not info.familiar:
            raise UserError(
                "this checkpoint does not know what its data showed: run python -m "
                "worldmodel.familiar --data ... --checkpoint ... first"
            )
        parts = (info.familiar[name] for name in ("mean", "axes", "frames"))
        return cls(*(torch.tensor(part, device=device) for part in parts))

    @classmethod
    def learn(cls, shown: Tensor, others: Tensor, count: int, axes: int, level: float) -> Familiar:
        """From latents and proprio of frames ``[N, C]``, of which the first `count` are kept; a
        share `level` of others ``[K, C]`` is farther than 1 from all of them."""
        mean, std = shown.mean(0), shown.std(0)
        std = torch.where(std > 1e-6, std, 1.0)
        axes = min(axes, shown.shape[1])
        turn = principal_axes((shown - mean) / std, axes) / std[:, None]
        bare = cls(mean, turn, (shown[:count] - mean) @ turn)
        limit = bare.nearest(others).quantile(1 - level).clamp(min=1e-6)
        return cls(mean, turn / limit, bare.frames / limit)

    def distance(self, z: Tensor, proprio: Tensor) -> Tensor:
        """Distance ``[...]`` of latents ``[..., P, D]`` and proprio ``[..., Dp]`` from the nearest
        frame; 1 is about the farthest that is usual."""
        return self.nearest(torch.cat([z.flatten(-2), proprio], -1).float())

    def nearest(self, numbers: Tensor) -> Tensor:
        """The same for both side by side ``[..., C]``."""
        return torch.cdist((numbers - self.mean) @ self.axes, self.frames).amin(-1)

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint's config.json."""

        def rounded(values: Any) -> Any:
            if isinstance(values, list):
                return [rounded(value) for value in values]
            return float(f"{values:.4g}")

        parts = {"mean": self.mean, "axes": self.axes, "frames": self.frames}
        return {name: rounded(part.tolist()) for name, part in parts.items()}


@torch.no_grad()
def familiar(config: FamiliarConfig) -> str:
    """Remember frames, keep them with the checkpoint; returns a sentence about them.

    Raises:
        UserError: the data is not for this checkpoint, or anything else in `config`.
    """
    model, encoder, info = load_checkpoint(config.checkpoint)
    dataset = open_dataset(config.data)
    if dataset.env_id != info.env_id:
        raise UserError(f"{config.data} is of {dataset.env_id}, the checkpoint of {info.env_id}")
    rules = parse_rules(config.without)
    rng = np.random.default_rng(config.seed)

    def seen(episodes: np.ndarray, count: int) -> Tensor:
        """Latents and proprio ``[n, C]`` of at most `count` frames of these episodes."""
        frames = rng.permutation(frames_of(dataset, episodes))
        if rules:
            if dataset.state is None or dataset.state_names is None:
                raise UserError(f"{config.data} recorded no state: nothing says what to leave out")
            states, names = dataset.state, dataset.state_names
            kept = [permitted(rules, names, states[i], states[i]) for i in frames[: 4 * count]]
            frames = frames[: 4 * count][kept]
        frames = np.sort(frames[:count])
        z = latents_of(model, encoder, dataset, frames).flatten(1)
        numbers = torch.cat([z, torch.from_numpy(dataset.proprio[frames]).float()], 1)
        return numbers[torch.from_numpy(rng.permutation(len(numbers)))]

    train, held_out = split(dataset, config.held_out)
    shown, others = seen(train, config.frames), seen(held_out, 2000)
    if min(len(shown), len(others)) < 10:
        raise UserError(f"{config.data} has too few frames that break none of {config.without}")
    found = Familiar.learn(shown, others, config.frames, config.axes, config.level)
    record(config.checkpoint, familiar=found.as_json())
    typical = found.nearest(others).median().item()
    return (
        f"{config.checkpoint} remembers {len(found.frames)} frames; of others {typical:.2f} away "
        f"in the median, {100 * (1 - config.level):g} % within 1"
    )


@run
def main(argv: list[str] | None = None) -> None:
    """Command line; exits with 2 on a user error."""
    description = "Remember what the data showed, so that plans keep to it."
    print(familiar(parse_config(FamiliarConfig, argv, "worldmodel.familiar", description)))
