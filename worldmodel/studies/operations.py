"""How many operations the matrix products take in what this package does, counted by hand.

2 m k n for a product of ``[m, k]`` and ``[k, n]``, and nothing for anything else, which takes time,
too. Convolutions count their padding.
"""

from __future__ import annotations

from typing import NamedTuple

from planners import Budget, Gradient, Plan, Planner
from worldmodel.encoders.encoder import Encoder, ViT
from worldmodel.models.world_model import Local, WorldModel
from worldmodel.training.trainer import Trainer


class Products(NamedTuple):
    """Operations of the matrix products in one model step of one candidate: of layers that see
    latents alone, of layers that see actions, of layers after them, and of attention, which
    multiplies no weights."""

    latents: int
    given: int
    rest: int
    attention: int


def of_step(model: WorldModel) -> Products:
    """What the predictor multiplies in one model step, by hand."""
    c, spec = model.config, model.spec
    k, f, p, d, w = c.context, c.frameskip, c.tokens, c.dim, c.width
    action, proprio = len(spec.action_low), len(spec.proprio_mean)
    attention = 0
    numbers = k * (f * action + proprio)
    residual = w * 2 * w + 2 * w * w
    if c.predictor == "mlp":
        latents = 0
        given = (k * p * d + numbers) * w
        rest = c.depth * residual + w * p * d + w * proprio
    elif c.predictor == "relative":
        latents = 0
        turned = k * f * action * 2 + k * proprio * 2  # actions and proprio as places
        given = turned + (k * p * d + 2 * k + 2 * k * f + numbers) * w
        rest = c.depth * residual + w * 5 + w * proprio
    elif c.predictor == "local":
        around = (2 * Local.REACH + 1) ** 2
        latents = p * around * k * d * w
        given = p * (numbers + 2) * w
        rest = p * (w * 2 * w + c.depth * residual + w * d) + w * proprio
    else:
        block = p * (w * 3 * w + w * w + w * 4 * w + 4 * w * w)  # qkv, out, the MLP's two
        attention = c.depth * (p * p * w + p * p * w)  # its shares, and what they weigh
        latents, given = p * k * d * w, 0
        rest = p * w * d + p * w * proprio
        if c.actions == "adaln":
            given, rest = numbers * w, rest + w * w
            block += w * 6 * w
        else:
            latents, given = 0, p * (k * d + numbers) * w
        rest += c.depth * block
    return Products(2 * latents, 2 * given, 2 * rest, 2 * attention)


def of_plan(model: WorldModel, planner: Planner, budget: Budget, plan: Plan) -> int:
    """Of one plan: of all model steps that it says it took, and of the gradient planner's way back,
    which asks for the gradient of actions alone."""
    step = of_step(model)
    total = sum(step) * plan.model_calls
    if isinstance(planner, Gradient):
        episodes, horizon = plan.actions.shape[:2]
        point = budget.samples * episodes * horizon  # model steps of all starts
        tried = planner.tries * point if planner.tries > 1 else 0
        points = (plan.model_calls - tried - 2 * episodes * horizon) // point  # idle, last check
        back = points if plan.stop_reason == "converged" else points - 1
        # Both factors of attention depend on actions; what is seen now does not.
        total += back * (sum(step) + step.attention) * point
        total -= back * step.latents * budget.samples * episodes
    return total


def of_encoder(encoder: Encoder) -> int | None:
    """Of one image, or None for an encoder that is not the project's own."""
    if not isinstance(encoder.backbone, ViT):
        return None
    c, patches = encoder.backbone.config, encoder.num_tokens
    tokens = patches + 1
    block = tokens * (c.dim * 3 * c.dim + c.dim * c.dim + c.dim * 4 * c.dim + 4 * c.dim * c.dim)
    block += tokens * tokens * c.dim + tokens * tokens * c.dim
    return 2 * (patches * 3 * c.patch_size**2 * c.dim + c.depth * block)


def of_train(trainer: Trainer) -> int:
    """Of one optimiser step on fixed latents: forwards, backwards, and Muon's five rounds of
    Newton and Schulz for each matrix ``[m, n]``, m <= n."""
    c, model = trainer.config, trainer.model
    step, (p, d, w) = of_step(model), (c.model.tokens, c.model.dim, c.model.width)
    frames = c.batch * (c.model.context + c.loss.rollout)
    seen, read = 2 * p * d * w, 2 * w * len(model.spec.proprio_mean)  # of the proprio head
    forward = c.batch * c.loss.rollout * sum(step) + frames * (seen + read)
    # Backwards once for weights and once for inputs, but for those that are data.
    backward = 2 * forward - c.batch * (step.latents + step.given) - frames * seen
    muon = 0
    for matrix in model.predictor.blocks.parameters():
        if matrix.ndim == 2:
            m, n = sorted(matrix.shape)
            muon += 5 * 2 * (m * n * m + m * m * m + m * m * n)
    return forward + backward + muon
