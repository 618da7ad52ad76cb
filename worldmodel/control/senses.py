"""How guardrails read named quantities from predicted trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from planners import Trajectory
from worldmodel.control.familiarity import Familiar
from worldmodel.control.inference import Inference
from worldmodel.data.images import load_image
from worldmodel.models.checkpoint import CheckpointInfo

if TYPE_CHECKING:
    from worldmodel.control.rule import Rule

Read = Callable[[Trajectory], Tensor]


@dataclass(frozen=True, eq=False)
class Senses:
    """Named quantities of a trajectory: measured (proprio), or read off latents by a probe.

    names: of the numbers of proprio.
    read_names: of the quantities that the probe reads off latents, flattened to ``[..., N]``.
    weights: of the linear probe, ``[N + 1, len(read_names)]``; the last row is a constant.
    photos: latents ``[P, D]`` of example images, by their paths.
    distance: squared distance ``[...]`` of latents ``[..., P, D]`` from others.
    familiar: distance ``[...]`` of latents ``[..., P, D]`` and proprio ``[..., Dp]`` from the
        training data; 1 is usual.
    near: squared latent distance that counts as near.
    action_names: of the numbers of an action.
    low, high: bounds of actions, ``[A]``.
    device: of the trajectories.
    """

    names: Sequence[str]
    read_names: Sequence[str] = ()
    weights: Tensor | None = None
    photos: Mapping[str, Tensor] = field(default_factory=dict)
    distance: Callable[[Tensor, Tensor], Tensor] | None = None
    familiar: Callable[[Tensor, Tensor], Tensor] | None = None
    near: float = 0.0
    action_names: Sequence[str] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    device: torch.device = torch.device("cpu")

    def action_points(self) -> dict[str, list[int]]:
        """The points of an action by name, such as ``start``, with the columns of their x and y."""
        names = list(self.action_names)
        return {
            name[:-2]: [column, names.index(f"{name[:-2]}_y")]
            for column, name in enumerate(names)
            if name.endswith("_x") and f"{name[:-2]}_y" in names
        }

    def find(self, wanted: Sequence[str], whole: bool) -> Read | None:
        """A function that reads these quantities ``[..., len(wanted)]`` from a trajectory, or None.

        Args:
            wanted: names of the quantities.
            whole: whether names must match as a whole; otherwise the first number of proprio whose
                name ends so counts: pusher_x for x.
        """
        known = list(self.names)
        if not whole:
            known = [name.rpartition("_")[2] for name in known]
        if set(wanted) <= set(known):
            # On the device of the trajectory: a list would be copied there on every call.
            at = torch.tensor([known.index(name) for name in wanted], device=self.device)

            def measured(trajectory: Trajectory) -> Tensor:
                assert trajectory.proprio is not None
                return trajectory.proprio.index_select(-1, at)

            return measured
        if self.weights is None or not set(wanted) <= set(self.read_names):
            return None
        weights = self.weights[:, [list(self.read_names).index(name) for name in wanted]]

        def read(trajectory: Trajectory) -> Tensor:
            return trajectory.z.flatten(-2).float() @ weights[:-1] + weights[-1]

        return read


def make_senses(rules: Sequence[Rule], info: CheckpointInfo, inference: Inference) -> Senses:
    """What the rules need to read from the predictions of a checkpoint's model.

    Raises:
        UserError: a rule needs a quantity that the checkpoint does not give, or its image cannot be
            read.
    """
    photos = {rule.photo for rule in rules if rule.photo}
    images = {path: load_image(path, info.image_size, info.fit) for path in photos}
    probe, device, model = info.probe, inference.device, inference.model
    senses = Senses(
        info.proprio_names,
        tuple(probe.get("names", ())),
        probe["weights"].to(device) if probe else None,
        {path: inference.encode(pixels[None])[0] for path, pixels in images.items()},
        model.distance,
        Familiar.of(info, device).distance if any(r.kind == "familiar" for r in rules) else None,
        info.near,
        info.action_names,
        model.action_low.tolist(),
        model.action_high.tolist(),
        device,
    )
    config = model.config
    z = torch.zeros(1, config.tokens, config.dim, device=device)
    proprio = torch.zeros(1, len(info.spec.proprio_mean), device=device)
    for rule in rules:
        rule.limit(senses, Trajectory(z, proprio))  # raises where something cannot be read
    return senses
