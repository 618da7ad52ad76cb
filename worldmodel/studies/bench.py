"""How fast it is, and how much of what the machine can do that takes.

    python -m worldmodel.bench --checkpoint pusht --out bench.json

prints a Markdown table and writes the same as JSON. Parts (``--only plan,loop``):

    plan      one plan of every planner, for 1 and 50 episodes at once: at the checkpoint's samples
              x iterations x horizon (the gradient planner's are its own), and at 300 x 10 x 5
    encode    images to tokens
    train     one optimiser step of `worldmodel.train`, on made-up latents, with drawing its clips
    collect   one recorded episode, drawn and written, in one process
    cold      a fresh process until its first action

How long decisions take while acting, `python -m worldmodel.evaluate --batch 1` tells. All of it
runs on the CPU and takes some ten minutes. The 99th percentile of few calls is little more than the
slowest: how many there were is beside it. Operations are those of matrix products, counted by hand
(`worldmodel.operations`). The ceiling is the machine's fastest matrix product in bfloat16,
measured at the start of the same run. Small matrices cannot reach it: so the last column is the
share of what a product of the work's own shape reaches alone, in the same run.
`--scale true` also draws time against samples, horizon, episodes, width and tokens, and fits
exponents.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import itertools
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import planners
from planners import Budget, Plan, Planner
from worldmodel.agent import Agent, AgentConfig, make_planner
from worldmodel.cli import (
    Progress,
    atomic_write_bytes,
    atomic_write_json,
    parse_config,
    progress,
    writable_folder,
)
from worldmodel.cli import run as run_command
from worldmodel.data.recording import CollectConfig, Recorder
from worldmodel.data.shards import save_shard
from worldmodel.encoders.encoder import Encoder
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.measure.film import ALARM, WARNING, as_png
from worldmodel.measure.tasks import render
from worldmodel.models.checkpoint import CheckpointInfo, load_checkpoint
from worldmodel.models.world_model import WorldModel
from worldmodel.studies import operations
from worldmodel.training.trainer import LossConfig, TrainConfig, Trainer

PARTS = ("plan", "encode", "train", "collect", "cold")
WARM_UP = 2  # calls that are not counted
SIZES = (512, 1024, 2048, 4096)  # of square matrices, for the ceiling
RANGES = {
    "samples": (16, 32, 64, 128, 256, 512, 1024),
    "horizon": (1, 2, 4, 8, 16),
    "episodes": (1, 2, 4, 8, 16, 32, 64),
    "width": (64, 128, 256, 512, 1024),
    "tokens": (1, 4, 16, 64),
}
SCALE_ITERATIONS = 2


@dataclass(frozen=True)
class BenchConfig:
    """What to measure, and how often."""

    checkpoint: str = "pusht"
    """Bundled name or folder."""
    out: Path = Path("bench.json")
    """JSON file to write; --scale draws a .png of the same name beside it."""
    only: str = ",".join(PARTS)
    """Parts to measure, separated by commas."""
    planners: str = ",".join(planners.PLANNERS)
    """Planners to measure, separated by commas."""
    plans: int = 20
    """Calls of each kind that are counted, after two that are not."""
    seconds: float = 30.0
    """Of a row at most: then fewer calls are counted, at least one."""
    samples: int = 300
    """Of the second size of plans: candidates per iteration, for every planner."""
    iterations: int = 10
    """Likewise: iterations."""
    horizon: int = 5
    """Likewise: model steps."""
    episodes: tuple[int, ...] = (1, 50)
    """How many are planned at once, as --episodes [1,8]."""
    threads: int | None = None
    """Of PyTorch; default: as many as it takes by itself."""
    scale: bool = False
    """Also measure and draw time against samples, horizon, episodes, width and tokens."""

    def __post_init__(self) -> None:
        for name in ("plans", "iterations", "horizon", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: it must be at least 1")
        if self.samples < 4:
            raise UserError(f"samples is {self.samples}: cmaes needs at least 4")
        if not 0 < self.seconds < math.inf:
            raise UserError(f"seconds is {self.seconds}: it must be a number above 0")
        if not self.episodes or min(self.episodes) < 1:
            raise UserError(f"episodes is {list(self.episodes)}: give numbers of at least 1")
        if self.out.suffix.lower() != ".json":
            raise UserError(f"out is {self.out}: it should end in .json")
        for name, known in (("only", PARTS), ("planners", tuple(planners.PLANNERS))):
            unknown = set(getattr(self, name).split(",")) - set(known)
            if unknown:
                raise UserError(
                    f"{name} names {min(unknown)!r}: it takes some of {', '.join(known)}, "
                    "separated by commas"
                )


# ------------------------------------------------------------------------------------- the clock
def timed(call: Callable[[], object], count: int, seconds: float) -> list[float]:
    """Milliseconds of `count` calls after two to warm up; of fewer once `seconds` have passed."""
    spent: list[float] = []
    begun = time.perf_counter()
    while len(spent) < count + WARM_UP and not (spent and time.perf_counter() - begun > seconds):
        started = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - started))
    return spent[WARM_UP:] or spent[-1:]


@functools.cache
def product_gflops(m: int, k: int, n: int, seconds: float = 0.3) -> float:
    """The fastest product of ``[m, k]`` and ``[k, n]`` in bfloat16, 10^9 operations a second."""
    x, weight = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
    spent: list[float] = []
    begun = time.perf_counter()
    while len(spent) < 3 or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        F.linear(x, weight)
        spent.append(time.perf_counter() - started)
    return 2 * m * k * n / min(spent) / 1e9


def ceiling() -> dict[int, float]:
    """10^9 operations a second for each size of square matrices, up to where one takes long."""
    found: dict[int, float] = {}
    for size in SIZES:
        found[size] = product_gflops(size, size, size)
        if 2 * size**3 / found[size] / 1e9 > 0.5:
            break
    return found


def peak_mb() -> float:
    """The most memory that this process has held so far, in MB."""
    try:  # on Linux, what getrusage says of a process includes what its parent held
        with open("/proc/self/status") as file:
            return int(file.read().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on a Mac


def machine() -> dict[str, Any]:
    """What it runs on, and how busy that was already."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    said = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    flags = said.get("flags", "").split()
    return {
        "cpu": said.get("model name", "").strip() or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "amx": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "load": round(os.getloadavg()[0], 2),
    }


# ------------------------------------------------------------------------------------- the parts
@dataclass(frozen=True)
class Row:
    """One measurement: milliseconds of each call, `count` things done in each, or a `value` of
    another kind, in `unit`; operations of a call, and the product most of them are in."""

    part: str
    name: str
    ms: list[float]
    unit: str
    count: float = 1.0
    value: float | None = None
    operations: int | None = None
    shape: tuple[int, int, int] | None = None

    def report(self, top: float) -> dict[str, Any]:
        """What the JSON file says of it; `top` is the ceiling. Shares are of the median."""
        p50, p99 = np.percentile(self.ms, (50, 99))
        gflops = None if self.operations is None else self.operations / p50 / 1e6
        shaped = None if self.shape is None else product_gflops(*self.shape)
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


Parts = tuple[WorldModel, Encoder, CheckpointInfo]


def placed(
    parts: Parts, planner: Planner, config: AgentConfig | None = None, episodes: int = 1
) -> Agent:
    """An agent before its first plan, for so many episodes that each begin elsewhere."""
    info = parts[2]
    agent = Agent(*parts, planner, config)
    env = make_env(info.env_id, info.env_kwargs, info.image_size)
    seen = [env.reset(seed=seed) for seed in range(episodes)]
    goals = np.stack([render(env, told["goal_state"]) for _, told in seen])
    env.close()
    agent.reset(goals)
    agent.observe({key: np.stack([obs[key] for obs, _ in seen]) for key in ("pixels", "proprio")})
    return agent


def plan_row(agent: Agent, budget: Budget, config: BenchConfig) -> Row:
    """Plans of this budget from where the agent is."""
    problem = agent.problem()
    plans: list[Plan] = []

    def call() -> None:
        generator = torch.Generator().manual_seed(0)
        plans[:] = [agent.planner.plan(problem, budget, generator)]

    ms = timed(call, config.plans, config.seconds)
    return Row(
        "plan",
        f"plan, {agent.planner.name}, {budget.samples} x {budget.iterations} x {agent.horizon}, "
        f"{problem.episodes} episode{'s' if problem.episodes > 1 else ''}",
        ms,
        "plans/s",
        problem.episodes,
        operations=operations.of_plan(agent.model, agent.planner, budget, plans[0]),
        shape=widening(agent.model, budget.samples * problem.episodes),
    )


def widening(model: WorldModel, candidates: int) -> tuple[int, int, int]:
    """The product that most of the work of so many candidates is in: an MLP's first."""
    c = model.config
    rows = candidates * (c.tokens if c.predictor in ("local", "transformer") else 1)
    # More rows would fill the memory and be no faster.
    return min(rows, 2**16), c.width, (4 if c.predictor == "transformer" else 2) * c.width


def bench_plan(config: BenchConfig, parts: Parts) -> Iterator[Row]:
    """Every planner, at its own size and at the one that was asked for."""
    asked = Budget(config.samples, config.iterations)
    for episodes, name in itertools.product(config.episodes, config.planners.split(",")):
        planner = make_planner(name)
        agent = placed(parts, planner, None, episodes)
        yield plan_row(agent, agent.budget, config)
        if (asked, config.horizon) != (agent.budget, agent.horizon):
            agent = placed(parts, planner, AgentConfig(horizon=config.horizon), episodes)
            yield plan_row(agent, asked, config)


def bench_encode(config: BenchConfig, parts: Parts) -> Iterator[Row]:
    """Images of the checkpoint's size, of noise: what is seen makes no difference."""
    _, encoder, info = parts
    each, tokens, wide = operations.of_encoder(encoder), encoder.num_tokens + 1, 4 * encoder.dim
    for batch in (1, 64):
        shape = (batch, info.image_size, info.image_size, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        yield Row(
            "encode",
            f"encode, batch {batch}",
            timed(functools.partial(encoder.encode, pixels), config.plans, config.seconds),
            "frames/s",
            batch,
            operations=None if each is None else batch * each,
            shape=None if each is None else (batch * tokens, encoder.dim, wide),
        )


class Rehearsal(Trainer):
    """The training that a checkpoint had, on made-up latents, once these are fixed."""

    def __init__(self, info: CheckpointInfo):
        c, spec, training = info.model, info.spec, info.training
        self.config = TrainConfig(
            model=c,
            batch=training.get("batch", TrainConfig.batch),
            loss=LossConfig(**training.get("loss", {})),
        )
        self.device, self.spec = torch.device("cpu"), spec
        episodes, steps = 100, 100
        frames = episodes * (steps + 1)
        rng = np.random.default_rng(0)
        data: Any = SimpleNamespace(
            episodes=episodes,
            offsets=np.arange(episodes) * (steps + 1),
            lengths=np.full(episodes, steps),
            proprio=spec.proprio_mean + rng.standard_normal((frames, 1)) * spec.proprio_std,
            action_low=np.array(spec.action_low, np.float32),
            action_high=np.array(spec.action_high, np.float32),
            hold=None,
            actions=rng.uniform(spec.action_low, spec.action_high, (frames, len(spec.action_low))),
        )
        latents = rng.standard_normal((frames, c.tokens, c.dim)).astype(np.float16)
        self._sample_from([data], [latents])
        torch.manual_seed(0)
        self.model = WorldModel(c, spec)
        self.model.projector.requires_grad_(False)
        self.heads = self.teacher = self.taught = None
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = self._optimizers()
        self.fixed, self.step, self.minutes = True, 0, 0.0


def bench_train(config: BenchConfig, parts: Parts) -> Iterator[Row]:
    """The configuration that the checkpoint was trained with."""
    trainer = Rehearsal(parts[2])
    batch = trainer.config.batch
    yield Row(
        "train",
        f"train, batch {batch}, {trainer.config.loss.rollout} model steps",
        timed(trainer.train_step, config.plans, config.seconds),
        "samples/s",
        batch,
        operations=operations.of_train(trainer),
        shape=widening(trainer.model, batch),
    )


def bench_collect(config: BenchConfig, parts: Parts) -> Iterator[Row]:
    """Episodes as `worldmodel.collect` records them."""
    info = parts[2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.hdf5"
        recorder = Recorder(
            CollectConfig(info.env_id, path, image_size=info.image_size, env_kwargs=info.env_kwargs)
        )
        numbers = itertools.count()

        def call() -> None:
            save_shard(path, {0: (0, recorder.record(next(numbers)))})

        frames, ms = recorder.config.steps + 1, timed(call, config.plans, config.seconds)
        recorder.env.close()
    name = f"collect, an episode of {frames} frames, 1 process"
    yield Row("collect", name, ms, "frames/s", frames)


# It imports what acting takes, and not this module, which brings in all of training.
COLD = """
import sys
import worldmodel
from worldmodel.measure.environments import make_env

agent = worldmodel.load(sys.argv[1])
env = make_env(agent.info.env_id, agent.info.env_kwargs, agent.info.image_size)
obs, info = env.reset(seed=0)
agent.reset(env.unwrapped.render_state(info["goal_state"]))
env.step(agent.act(obs))
print("acted", flush=True)
"""


def bench_cold(config: BenchConfig, parts: Parts) -> Iterator[Row]:
    """Three fresh processes, one after the other; the files are in the system's cache by now."""
    del parts
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    settings = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    script = f"{COLD}\n{inspect.getsource(peak_mb)}\nprint(peak_mb())"
    ms, peaks = [], []
    for _ in range(3):
        begun = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", script, config.checkpoint],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line.strip())
                if said[-1] == "acted":
                    ms.append(1e3 * (time.perf_counter() - begun))
        if process.returncode or "acted" not in said:
            raise UserError(f"a fresh process failed: {' '.join(said[-1:])}")
        peaks.append(float(said[-1]))
    yield Row("cold", "cold start to first action, and its memory", ms, "MB peak", value=max(peaks))


MEASURE = {
    "plan": bench_plan,
    "encode": bench_encode,
    "train": bench_train,
    "collect": bench_collect,
    "cold": bench_cold,
}


def bench_scale(config: BenchConfig, parts: Parts) -> dict[str, dict[str, Any]]:
    """Median milliseconds of a plan of two iterations as one thing grows and all else stays as it
    is for the checkpoint, and the exponent of the power law that fits best."""
    _, encoder, info = parts
    found: dict[str, dict[str, Any]] = {}
    for name, values in RANGES.items():
        ms = []
        for value in values:
            size = {"samples": info.samples, "horizon": info.horizon, "episodes": 1, name: value}
            model = parts[0] if name in ("samples", "horizon", "episodes") else grown(info, size)
            settings = AgentConfig(horizon=size["horizon"])
            scaled = (model, encoder, info)
            agent = placed(scaled, make_planner("cem"), settings, size["episodes"])
            row = plan_row(agent, Budget(size["samples"], SCALE_ITERATIONS), config)
            ms.append(float(np.median(row.ms)))
        exponent, constant = np.polyfit(np.log(values), np.log(ms), 1)
        found[name] = {
            "values": list(values),
            "ms": ms,
            "exponent": float(exponent),
            "constant": float(constant),
        }
    return found


def grown(info: CheckpointInfo, size: dict[str, int]) -> WorldModel:
    """An untrained model of another width; or of so many latent tokens, which takes a transformer:
    the other predictors are for a number of their own."""
    if "width" in size:
        config = dataclasses.replace(info.model, width=size["width"])
    else:
        config = dataclasses.replace(
            info.model, tokens=size["tokens"], predictor="transformer", projector="mlp", width=192
        )
    return WorldModel(config, info.spec)


# --------------------------------------------------------------------------------- what is shown
def draw(result: dict[str, Any]) -> bytes:
    """A PNG: milliseconds of a plan against each thing that grows, on log axes."""
    from matplotlib.figure import Figure

    scale = result["scale"]
    figure = Figure(figsize=(3 * len(scale), 3.2), layout="constrained")
    for axes, (name, found) in zip(
        figure.subplots(1, len(scale), sharey=True), scale.items(), strict=True
    ):
        values = np.array(found["values"], float)
        fitted = np.exp(found["constant"]) * values ** found["exponent"]
        axes.loglog(values, found["ms"], "o", color=ALARM, label="median")
        label = f"{name}$^{{{found['exponent']:.2f}}}$"
        axes.loglog(values, fitted, "--", color=WARNING, label=label)
        axes.set(xlabel=name, xticks=values)
        axes.set_xticks([], minor=True)
        axes.set_xticklabels([f"{value:g}" for value in values])
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    own = "else {samples} samples, horizon {horizon}, 1 episode".format(**result["own"])
    figure.suptitle(f"{result['checkpoint']} on {result['machine']['cpu']}; {own}", fontsize=10)
    figure.axes[0].set_ylabel(f"ms for a plan of {SCALE_ITERATIONS} iterations")
    return as_png(figure, 150)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    m, top = result["machine"], result["ceiling"]
    bf16 = [name for name in ("amx", "avx512_bf16") if m[name]] or ["none known of"]
    lines = [
        f"{result['checkpoint']}, {result['parameters'] / 1e6:.2f} M parameters, on {m['cpu']}: "
        f"{m['cores']} cores, threads: {m['threads']}, PyTorch {m['torch']}, {m['capability']}, "
        f"instructions for bfloat16: {', '.join(bf16)}; ceiling {top['gflops']:.0f} GFLOP/s in "
        f"bfloat16; peak memory of this run {result['peak_mb']:.0f} MB",
        "",
    ]
    if m["load"] > 0.5:
        lines += [f"Busy already when this began (load {m['load']}): times may be too long.", ""]
    lines += [
        "| | calls | p50 ms | p99 ms | | GFLOP | GFLOP/s | of the ceiling | of its shape |",
        "|---|" + "---:|" * 8,
    ]

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    for row in result["rows"]:
        done = ("", "") if row["gflops"] is None else (row["operations"] / 1e9, row["gflops"])
        cells = [row["name"], row["calls"], f"{row['ms_p50']:.1f}", f"{row['ms_p99']:.1f}"]
        cells += [f"{row['value']:.4g} {row['unit']}", *(f"{x:.4g}" if x else "" for x in done)]
        cells += [share(row["of_ceiling"]), share(row["of_shape"])]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for name, found in result["scale"].items():
        values, ms = found["values"], found["ms"]
        name = f"scale, {name} {values[0]} to {values[-1]}"
        said = f"{ms[0]:.1f} to {ms[-1]:.1f} ms, exponent {found['exponent']:.2f}"
        lines.append(f"| {name} | | | | {said} | | | | |")
    return "\n".join(lines)


def bench(config: BenchConfig) -> dict[str, Any]:
    """Measure; what it returns is what the JSON file gets.

    Raises:
        UserError: the checkpoint cannot be loaded, or is for an environment that is not bundled.
    """
    parts = load_checkpoint(config.checkpoint)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    about, sizes = machine(), ceiling()
    top = max(sizes.values())
    rows = []
    bar: Progress[Any] = progress(None, description="bench", unit="row")
    with bar:
        for part in [part for part in PARTS if part in config.only.split(",")]:
            for row in MEASURE[part](config, parts):
                rows.append(row.report(top))
                bar.update(1, row=row.name)
    return {
        "checkpoint": config.checkpoint,
        "parameters": sum(p.numel() for p in parts[0].parameters()),
        "machine": about,
        "ceiling": {"gflops": top, "sizes": sizes},
        "own": {name: getattr(parts[2], name) for name in ("samples", "iterations", "horizon")},
        "rows": rows,
        "scale": bench_scale(config, parts) if config.scale else {},
        "peak_mb": peak_mb(),
    }


@run_command
def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, write the files."""
    config = parse_config(BenchConfig, argv, "worldmodel.bench", "How fast it is, and could be.")
    writable_folder(config.out.parent)
    result = bench(config)
    atomic_write_json(config.out, result)
    if config.scale:
        atomic_write_bytes(config.out.with_suffix(".png"), draw(result))
    print(table(result))
    print(f"\nwrote {config.out}")
