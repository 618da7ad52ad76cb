"""Sizes of the world model, and a description of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worldmodel.errors import UserError
from worldmodel.models.registry import PREDICTORS, REPRESENTATIONS


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the world model.

    Attributes:
        tokens: latent tokens of one frame, P.
        dim: channels of one latent token, D.
        predictor: "transformer"; "mlp"; "local", which needs one latent token for each patch; or
            "relative", which needs a planar pose.
        actions: how actions and proprioception condition the transformer: "adaln", or "concat" to
            each token.
        width: of the predictor.
        depth: of the predictor, in blocks.
        heads: attention heads of the transformer.
        context: frames the predictor sees, K.
        frameskip: primitive actions per model step, F; 0: measured from the data in training.
        representation: how patch tokens become latents: "patch_adapter", which is trained;
            "principal_components" or "patch_pictures", which have one latent token for each patch;
            or "planar_pose", which has one latent token of dim 6.
        activation: of the predictors "mlp" and "relative". ReLU is much faster on a CPU.
    """

    tokens: int = 1
    dim: int = 128
    predictor: str = "mlp"
    actions: Literal["adaln", "concat"] = "adaln"
    width: int = 384
    depth: int = 3
    heads: int = 4
    context: int = 2
    frameskip: int = 0
    representation: str = "patch_adapter"
    activation: Literal["gelu", "relu"] = "relu"

    def __post_init__(self) -> None:
        if self.frameskip < 0:
            raise UserError(f"frameskip is {self.frameskip}: it must be at least 0")
        REPRESENTATIONS[self.representation].check(self)
        PREDICTORS[self.predictor].check(self)


@dataclass(frozen=True)
class DataSpec:
    """Sizes and statistics of the world model's inputs, from the dataset and the encoder.

    Statistics are over all recorded frames, in the env's own units.
    """

    num_tokens: int
    token_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    proprio_mean: tuple[float, ...]
    proprio_std: tuple[float, ...]
