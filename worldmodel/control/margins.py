"""Calibrated margins of guardrails, stored with a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from worldmodel.control.guardrails import Rule
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.world_model import WorldModel


def calibration_key(
    rule: Rule, info: CheckpointInfo, model: WorldModel, settings: Sequence[Any]
) -> str:
    """A hash of all that the margin of a guardrail depends on.

    Args:
        rule: the guardrail.
        info: for encoder and probe.
        model: as the agent runs it.
        settings: planner, budget and how plans are executed; objects with a complete ``repr``.
    """
    digest = hashlib.sha256(repr((info.encoder_hash, *settings, rule.bare)).encode())
    if info.probe:
        digest.update(info.probe["weights"].numpy().tobytes())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def calibrated(rule: Rule, info: CheckpointInfo, key: str) -> Rule:
    """The rule, with its calibrated margin if it asks for that.

    Raises:
        UserError: the checkpoint has no margin for `key`.
    """
    if rule.margin is not None:
        return rule
    known = info.calibration.get(key)
    if known is None:
        raise UserError(
            f"guardrail {rule.text!r} was not calibrated for this model, planner and budget: "
            f"run python -m worldmodel.calibrate with them and --guardrail {rule.bare}"
        )
    return dataclasses.replace(rule, margin=float(known["margin"]))
