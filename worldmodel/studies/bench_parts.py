"""Parts of the benchmark: plans, encoding, training, collection and a cold start."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from planners import Budget, Planner
from worldmodel.agent import Agent
from worldmodel.control.config import AgentConfig, make_planner
from worldmodel.control.hold import task_hold
from worldmodel.data.recording import CollectConfig, Recorder
from worldmodel.data.shards import save_shard
from worldmodel.encoders.encoder import Encoder
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.measure.tasks import render
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.world_model import WorldModel
from worldmodel.studies.bench_config import BenchConfig
from worldmodel.studies.bench_training import rehearse
from worldmodel.studies.clock import peak_mb, product_gflops, timed
from worldmodel.studies.operations import matrix_operations

Loaded = tuple[WorldModel, Encoder, CheckpointInfo]
MOST_ROWS = 2**16  # of a product for comparison: more are no faster and fill the memory
COLD_STARTS = 3
COLD_SECONDS = 300  # time limit of a cold start


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        part: plan, encode, train, collect or cold.
        name: for people.
        ms: milliseconds of each call.
        unit: of the speed, such as plans/s, or of `value`.
        count: plans, frames or samples in one call.
        value: a number in place of the speed.
        operations: operations of the matrix products in one call.
        shape: m, k, n of the product that takes most of these operations.
    """

    part: str
    name: str
    ms: list[float]
    unit: str
    count: float = 1.0
    value: float | None = None
    operations: int | None = None
    shape: tuple[int, int, int] | None = None

    def report(self, top: float, device: str) -> dict[str, Any]:
        """The row of the JSON file; `top` is the ceiling in 10^9 operations a second. Speeds are
        those of the median call."""
        p50, p99 = np.percentile(self.ms, (50, 99))
        gflops = None if self.operations is None else self.operations / p50 / 1e6
        shaped = None if self.shape is None else product_gflops(*self.shape, device)
        return {
            "part": self.part,
            "name": self.name,
            "calls": len(self.ms),
            "ms_p50": round(float(p50), 4),
            "ms_p99": round(float(p99), 4),
            "value": round(float(1e3 * self.count / p50 if self.value is None else self.value), 4),
            "unit": self.unit,
            "operations": self.operations,
            "gflops": gflops,
            "of_ceiling": None if gflops is None else gflops / top,
            "shape": self.shape,
            "shape_gflops": shaped,
            "of_shape": None if gflops is None or shaped is None else gflops / shaped,
        }


def placed(
    loaded: Loaded, planner: Planner, config: AgentConfig | None = None, episodes: int = 1
) -> Agent:
    """An agent before its first plan, at the start of several different episodes."""
    info = loaded[2]
    env = make_env(info.env_id, info.env_kwargs, info.image_size)
    agent = Agent(*loaded, planner, config, task_hold(env))
    starts = [env.reset(seed=seed) for seed in range(episodes)]
    goals = np.stack(
        [render(env, reset_info.get("goal_state", reset_info["state"])) for _, reset_info in starts]
    )
    env.close()
    agent.reset(goals)
    agent.observe({key: np.stack([obs[key] for obs, _ in starts]) for key in ("pixels", "proprio")})
    return agent


def plan_row(agent: Agent, budget: Budget, config: BenchConfig) -> Row:
    """Plans with this budget from the agent's present state."""
    problem = agent.problem()

    def call() -> object:
        return agent.planner.plan(problem, budget, torch.Generator().manual_seed(0))

    operations = matrix_operations(call)
    return Row(
        "plan",
        f"plan, {agent.planner.name}, {budget.samples} x {budget.iterations} x {agent.horizon}, "
        f"{problem.episodes} episode{'s' if problem.episodes > 1 else ''}",
        timed(call, config.plans, config.seconds),
        "plans/s",
        problem.episodes,
        operations=operations,
        shape=widest_product(agent.model, budget.samples * problem.episodes),
    )


def widest_product(model: WorldModel, candidates: int) -> tuple[int, int, int]:
    """m, k, n of the first product in the predictor's MLPs, for a number of candidates."""
    c, predictor = model.config, model.predictor
    rows = candidates * (c.tokens if predictor.per_token else 1)
    return min(rows, MOST_ROWS), c.width, predictor.expansion * c.width


def bench_plan(config: BenchConfig, loaded: Loaded) -> Iterator[Row]:
    """Every planner with its own budget and with the one of the flags."""
    asked = Budget(config.samples, config.iterations)
    for episodes, name in itertools.product(config.episodes, config.planners.split(",")):
        planner = make_planner(name)
        agent = placed(loaded, planner, None, episodes)
        yield plan_row(agent, agent.budget, config)
        if (asked, config.horizon) != (agent.budget, agent.horizon):
            agent = placed(loaded, planner, AgentConfig(horizon=config.horizon), episodes)
            yield plan_row(agent, asked, config)


def bench_encode(config: BenchConfig, loaded: Loaded) -> Iterator[Row]:
    """Images of random pixels, which take as long as others."""
    _, encoder, info = loaded
    for batch in (1, 64):
        shape = (batch, info.image_size, info.image_size, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        call = functools.partial(encoder.encode, pixels)
        operations = matrix_operations(call)
        yield Row(
            "encode",
            f"encode, batch {batch}",
            timed(call, config.plans, config.seconds),
            "frames/s",
            batch,
            operations=operations,
            shape=(batch * (encoder.num_tokens + 1), encoder.dim, 4 * encoder.dim),
        )


def bench_train(config: BenchConfig, loaded: Loaded) -> Iterator[Row]:
    """One optimiser step of the training that the checkpoint had, on random latents."""
    trainer, loop = rehearse(loaded[2], loaded[1], torch.device("cpu"))
    operations = matrix_operations(loop.update)
    batch = trainer.config.batch
    yield Row(
        "train",
        f"train, batch {batch}, {trainer.config.loss.rollout} model steps",
        timed(loop.update, config.plans, config.seconds),
        "samples/s",
        batch,
        operations=operations,
        shape=widest_product(trainer.model, batch),
    )


def bench_collect(config: BenchConfig, loaded: Loaded) -> Iterator[Row]:
    """Recording and writing one episode."""
    info = loaded[2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.hdf5"
        recorder = Recorder(
            CollectConfig(info.env_id, path, image_size=info.image_size, env_kwargs=info.env_kwargs)
        )
        numbers = itertools.count()

        def call() -> None:
            save_shard(path, [(0, 0, recorder.record(next(numbers)))])

        frames, ms = recorder.config.steps + 1, timed(call, config.plans, config.seconds)
        recorder.env.close()
    name = f"collect, an episode of {frames} frames, 1 process"
    yield Row("collect", name, ms, "frames/s", frames)


# Imports what acting takes, and not this module, which imports all of training.
COLD = """
import sys
import time
import worldmodel
from worldmodel.measure.environments import make_env
from worldmodel.measure.tasks import render

agent = worldmodel.load(sys.argv[1])
env = make_env(agent.info.env_id, agent.info.env_kwargs, agent.info.image_size)
obs, info = env.reset(seed=0)
agent.reset(render(env, info.get("goal_state", info["state"])))
env.step(agent.act(obs))
acted = time.time()
"""


def bench_cold(config: BenchConfig, loaded: Loaded) -> Iterator[Row]:
    """New processes until their first action, one after the other; files are in the system's cache.

    Raises:
        UserError: a process fails or takes too long.
    """
    del loaded
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    settings = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    script = f"{COLD}\n{inspect.getsource(peak_mb)}\nprint(acted, peak_mb())"
    ms, peaks = [], []
    for _ in range(COLD_STARTS):
        begun = time.time()
        try:
            done = subprocess.run(
                [sys.executable, "-c", script, config.checkpoint],
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                timeout=COLD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"a new process did not act within {COLD_SECONDS} s") from None
        if done.returncode:
            raise UserError(f"a new process failed: {' '.join(done.stderr.splitlines()[-1:])}")
        acted, peak = map(float, done.stdout.split()[-2:])
        ms.append(1e3 * (acted - begun))
        peaks.append(peak)
    yield Row("cold", "cold start to first action, and its memory", ms, "MB peak", value=max(peaks))


MEASURES = {
    "plan": bench_plan,
    "encode": bench_encode,
    "train": bench_train,
    "collect": bench_collect,
    "cold": bench_cold,
}
