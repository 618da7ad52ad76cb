"""A distance of latents that means time: what changes slowly counts most."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 0.01  # of the mean change of a number in one step


def slow_metric(z: Tensor) -> Tensor:
    """A matrix W, so that ``|W (z - z')|^2`` is the squared distance of latents.

    It is ``d S^-1 C S^-1 d`` for a difference d, where S and C are the second moments of changes in
    one step and of changes between random frames of a clip. S^-1 measures differences in steps, so
    what jitters from frame to frame counts little. C S^-1 weighs each direction by its slowness
    (slow feature analysis: Wiskott and Sejnowski 2002), so an object that moves now and then counts
    more than the robot, which moves all the time.

    Args:
        z: latents of recorded clips ``[B, J, n]``, at least two clips of two frames.

    Returns:
        ``[n, n]``. The mean squared distance of frames of different clips is 2, as that of
        a normalised number.
    """
    z = z.double().cpu()  # not every device has float64
    step = (z[:, 1:] - z[:, :-1]).flatten(0, 1)
    within = (z - z.mean(1, keepdim=True)).flatten(0, 1)
    per_step = step.T @ step / len(step)
    per_clip = within.T @ within / len(within)
    ridge = RIDGE * per_step.trace() / len(per_step) + 1e-12
    in_steps = torch.linalg.inv(per_step + ridge * torch.eye(len(per_step)))
    variance, axes = torch.linalg.eigh(per_clip)
    root = axes * variance.clamp_min(0).sqrt() @ axes.T
    matrix = root @ in_steps
    seen = z.flatten(0, 1) @ matrix.T
    spread = 2 * (seen - seen.mean(0)).square().sum(-1).mean()
    return (matrix * (2 / spread.clamp_min(1e-12)).sqrt()).float()
