"""The training loop: learning rate, moving average, metrics, progress, saving and resuming.

`Loop` trains a `Learner`, which has the data, the networks and the loss. World models and encoders
are both trained by it. A folder holds one run::

    OUT/metrics.jsonl   one line per `log_every` steps, and one per validation
    OUT/tensorboard     the same for TensorBoard, if it is wanted
    OUT/state.pt        everything that resuming needs

A learner draws its random numbers from the seed and the step alone. So a resumed run repeats an
uninterrupted one to the last bit.
"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from worldmodel.cli import Progress, progress
from worldmodel.errors import UserError
from worldmodel.training.metrics import Array, Figures, open_metrics

STATE = "state.pt"


@dataclass(frozen=True)
class LoopConfig:
    """How long a run is, and how often it reports.

    Attributes:
        out: folder of the run.
        steps: optimiser steps, or None for a budget of time.
        minutes: wall-clock budget, where `steps` is None.
        batch: samples per step, for the speed in metrics.
        clip: largest gradient norm.
        log_every: steps between lines of metrics.
        save_every: steps between training states.
        validate_every: steps between validations, of a learner that validates.
        tensorboard: whether to write for TensorBoard, too.
    """

    out: Path
    steps: int | None
    batch: int
    clip: float
    minutes: float = 0.0
    log_every: int = 50
    save_every: int = 500
    validate_every: int = 500
    tensorboard: bool = False


class Learner(Protocol):
    """The parts of a run that differ.

    Attributes:
        trained: all trained networks by name, `model` among them.
        average: moving average of `model`; see `moving_average`.
        optimizers: of all trained parameters.
    """

    trained: dict[str, nn.Module]
    average: AveragedModel
    optimizers: list[Optimizer]

    @property
    def model(self) -> nn.Module:
        """The network whose weights are averaged."""
        ...

    def learning_rate(self, step: int, progress: float) -> float:
        """Learning rate of a step, relative to the peak."""
        ...

    def prepare(self, step: int, progress: float) -> bool:
        """Called before each step. Returns whether the run should be saved at once."""
        ...

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step, and figures for the metrics."""
        ...

    def summarise(self, window: list[dict[str, Tensor]]) -> Figures:
        """A line of metrics from the figures of the steps since the last line."""
        ...

    def save(self, step: int, minutes: float) -> None:
        """Write the trained networks."""
        ...


def moving_average(model: nn.Module, decay: Callable[[int], float]) -> AveragedModel:
    """Exponential moving average of a model's weights.

    Args:
        model: its initial weights are the first ones of the average.
        decay: number of updates, counted from 1, -> weight of the average in this update.
    """

    def update(average: Any, current: Any, count: Tensor | int) -> None:
        torch._foreach_lerp_(average, current, 1 - decay(int(count)))

    average = AveragedModel(model, multi_avg_fn=update).requires_grad_(False)
    average.n_averaged.fill_(1)  # else the first update would copy the weights
    return average


def cosine(progress: float, floor: float = 0.0) -> float:
    """A cosine from 1 to `floor` while `progress` goes from 0 to 1."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


class Loop:
    """A run of a learner.

    Attributes:
        step: optimiser steps taken.
        minutes: time spent, in all sessions.
    """

    def __init__(
        self,
        learner: Learner,
        config: LoopConfig,
        validate: Callable[[], tuple[Figures, str]] | None = None,
        draw: Callable[[], dict[str, Array]] | None = None,
    ) -> None:
        """`validate` returns figures for the metrics and a sentence to print; `draw` returns
        pictures ``[H, W, 3]`` by name, for TensorBoard."""
        self.learner, self.config, self.validate, self.draw = learner, config, validate, draw
        self.step, self.minutes = 0, 0.0
        self._start, self._minutes_before, self._step_before = time.monotonic(), 0.0, 0
        self.parameters = [p for each in learner.trained.values() for p in each.parameters()]
        self.schedules = [
            LambdaLR(optimizer, lambda _: learner.learning_rate(self.step, self.progress))
            for optimizer in learner.optimizers
        ]

    @property
    def progress(self) -> float:
        """Share of the run that is completed, 0 to 1."""
        c = self.config
        done = self.step / c.steps if c.steps is not None else self.minutes / c.minutes
        return min(1.0, done)

    def update(self) -> dict[str, Tensor]:
        """One optimiser step; returns its figures."""
        learner = self.learner
        if learner.prepare(self.step, self.progress):
            self.save()
        loss, figures = learner.loss(self.step)
        for optimizer in learner.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        if not math.isfinite(float(norm)):
            raise UserError(f"the gradient is {float(norm)} at step {self.step}: lower lr")
        for optimizer in learner.optimizers:
            optimizer.step()
        learner.average.update_parameters(learner.model)
        rate = torch.tensor(self.schedules[0].get_last_lr()[0], dtype=torch.float64)
        self.step += 1
        self.minutes = self._minutes_before + (time.monotonic() - self._start) / 60
        for schedule in self.schedules:
            schedule.step()
        return {"loss": loss.detach(), **figures, "grad_norm": norm.detach(), "lr": rate}

    def run(self) -> None:
        """Train to the end."""
        c = self.config
        total, unit = (c.steps, "step") if c.steps is not None else (c.minutes, "min")
        bar: Progress[Any] = progress(None, total * (1 - self.progress), "train", unit)
        window: list[dict[str, Tensor]] = []
        with open_metrics(c.out, self.step, c.tensorboard) as metrics, bar:
            while self.progress < 1.0:
                before = self.progress
                window.append(self.update())
                last = self.progress >= 1.0
                clock = {"minutes": round(self.minutes, 3), "samples_per_s": round(self.speed, 1)}
                bar.update(total * (self.progress - before), loss=float(window[-1]["loss"]))
                if self.step % c.log_every == 0 or last:
                    metrics.write({"step": self.step, **self.learner.summarise(window), **clock})
                    window = []
                if self.validate and (self.step % c.validate_every == 0 or last):
                    figures, sentence = self.validate()
                    metrics.write({"step": self.step, **figures, **clock})
                    print(f"step {self.step}: {sentence}", flush=True)
                    if self.draw and metrics.pictures_wanted:
                        metrics.show(self.draw(), self.step)
                if self.step % c.save_every == 0 or last:
                    self.save()

    @property
    def speed(self) -> float:
        """Samples per second in this session."""
        seconds = max(1e-9, time.monotonic() - self._start)
        return self.config.batch * (self.step - self._step_before) / seconds

    def save(self) -> None:
        """Write the trained networks and the training state, each complete or not at all."""
        self.learner.save(self.step, self.minutes)
        state = {
            "trained": {name: each.state_dict() for name, each in self.learner.trained.items()},
            "average": self.learner.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.learner.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "step": self.step,
            "minutes": self.minutes,
        }
        temporary = self.config.out / f"{STATE}.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.config.out / STATE)

    def resume(self) -> None:
        """Continue from the training state in the folder.

        Raises:
            UserError: there is none, or it is damaged or of other sizes.
        """
        path, learner = self.config.out / STATE, self.learner
        try:
            state = torch.load(path, weights_only=True, map_location=self.parameters[0].device)
            for name, each in learner.trained.items():
                each.load_state_dict(state["trained"][name])
            learner.average.load_state_dict(state["average"])
            for optimizer, saved in zip(learner.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
                schedule.load_state_dict(saved)
            self.step, self.minutes = int(state["step"]), float(state["minutes"])
        except FileNotFoundError:
            raise UserError(f"nothing to resume at {path}: start without --resume") from None
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot resume from {path}: {reason}") from None
        self._start = time.monotonic()
        self._minutes_before, self._step_before = self.minutes, self.step


def open_run(out: str | Path, resume: bool) -> Path:
    """The folder of a run, made where it is missing.

    Raises:
        UserError: it holds a run that is not to be resumed.
    """
    folder = Path(out)
    if (folder / STATE).exists() and not resume:
        raise UserError(f"{folder} holds a run: give --resume true, or another --out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
