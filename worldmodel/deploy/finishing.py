"""Everything that a checkpoint gets after training, in one command.

    python -m worldmodel.finish --checkpoint runs/robot/checkpoint --data data/robot

Steps, each of which stores its result with the checkpoint:

    probe      a linear probe of the state, for guardrails on objects; needs states in the data
    decoder    pictures of latents, for people
    familiar   frames of the data, for the guardrail ``familiar``
    surprise   usual prediction errors, for alarms; needs an environment with an `envs.task.Task`
    calibrate  margins of the guardrails in ``--guardrail``; needs a Task, too

A step that cannot be done is skipped; the command prints the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from worldmodel.control.config import AgentConfig, PlannerConfig
from worldmodel.data.dataset import open_dataset
from worldmodel.errors import UserError
from worldmodel.measure.calibration import CalibrateConfig, calibrate
from worldmodel.measure.familiar_frames import FamiliarConfig, store_familiar
from worldmodel.measure.linear_probe import save_probe
from worldmodel.measure.prediction_errors import SurpriseConfig, measure_surprise
from worldmodel.models.checkpoint import CheckpointInfo, find_checkpoint, load_info
from worldmodel.training.decoder_training import TrainDecoderConfig, train_decoder


@dataclass(frozen=True)
class FinishConfig:
    """What to finish, and with what."""

    SHORT: ClassVar = {"planner": "planner.name"}

    checkpoint: str
    """Bundled name, folder or hf:USER/NAME."""
    data: str
    """Dataset folder that the checkpoint was trained on, or more of its kind."""
    guardrail: list[str] = field(default_factory=list)
    """Guardrails to calibrate; may be given again. Without any, this step is skipped."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Planner that the guardrails are calibrated for."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """Settings of the agent that the guardrails are calibrated for."""
    targets: str = ""
    """Targets of the probe, separated by commas; empty means all but velocities."""
    decoder_steps: int = 2000
    """Optimiser steps of the decoder."""
    familiar_frames: int = 2000
    """Frames to store."""
    surprise_episodes: int = 400
    """Episodes that measure the usual prediction errors."""
    calibration_episodes: int = 100
    """Tasks in a round of calibration."""
    held_out: float = 0.1
    """Fraction of the episodes in the data to measure on."""
    seed: int = 0
    """Seed of all steps."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def finish(config: FinishConfig) -> dict[str, str]:
    """Run all steps, with a line about each.

    Returns:
        The outcome of each step: a sentence about the result, or "skipped: ..." with the reason.

    Raises:
        UserError: there is no such checkpoint or dataset, or they are of different environments.
    """
    info = load_info(find_checkpoint(config.checkpoint))
    dataset = open_dataset(config.data)
    if dataset.env_id != info.env_id:
        raise UserError(f"{config.data} is of {dataset.env_id}, the checkpoint of {info.env_id}")
    steps = dict(_steps(config, info))
    outcomes = {}
    for number, (name, step) in enumerate(steps.items(), 1):
        print(f"{number}/{len(steps)} {name} ...", file=sys.stderr, flush=True)
        try:
            outcomes[name] = step()
        except UserError as error:
            outcomes[name] = f"skipped: {error}"
        print(f"{name}: {outcomes[name]}", flush=True)
    return outcomes


def _steps(config: FinishConfig, info: CheckpointInfo) -> Iterator[tuple[str, Callable[[], str]]]:
    """The steps by name, in order; later ones use the results of earlier ones."""
    checkpoint, seed = config.checkpoint, config.seed
    where: dict[str, Any] = {
        "env": info.env_id,
        "env_kwargs": info.env_kwargs,
        "checkpoint": checkpoint,
        "device": config.device,
    }

    def probe() -> str:
        dataset = open_dataset(config.data)
        table = save_probe(
            checkpoint, dataset, config.targets, config.held_out, seed, config.device
        )
        return f"stored\n{table}"

    def decoder() -> str:
        found = train_decoder(
            TrainDecoderConfig(
                config.data,
                checkpoint,
                steps=config.decoder_steps,
                held_out=config.held_out,
                seed=seed,
                device=config.device,
            )
        )
        encoded = found["by_depth"][0]
        return f"stored; SSIM {encoded['ssim']:.3f} for pictures of encoded frames"

    def familiar() -> str:
        return store_familiar(
            FamiliarConfig(
                config.data,
                checkpoint,
                frames=config.familiar_frames,
                held_out=config.held_out,
                seed=seed,
                device=config.device,
            )
        )

    def surprise() -> str:
        found = measure_surprise(
            SurpriseConfig(**where, episodes=config.surprise_episodes, seed=seed)
        )
        return f"stored the usual errors of {found['episodes']} episodes"

    def calibration() -> str:
        if not config.guardrail:
            raise UserError("no --guardrail")
        found = calibrate(
            CalibrateConfig(
                **where,
                guardrail=config.guardrail,
                planner=config.planner,
                agent=config.agent,
                episodes=config.calibration_episodes,
            )
        )
        margins = (f"{each['guardrail']} {each['margin']:.4f}" for each in found.values())
        return f"stored margins: {', '.join(margins)}"

    yield "probe", probe
    yield "decoder", decoder
    yield "familiar", familiar
    yield "surprise", surprise
    yield "calibrate", calibration
