"""Milliseconds of one plan of other libraries and ours, in the same run.

    python tests/bench/bench_peers.py [--out out/peers.json] [--envs .cache/peers] [--full true]

Each library is installed into a virtual environment of its own on first use (some GB each). Then
the library and ours plan in turn, on the same number of threads: one plan each, encoding not
included, with equal samples, iterations and horizon. A ratio is the median over neighbouring pairs,
which cancels other load on the machine. Bundled models are smaller than the libraries', so each row
also has an untrained model of ours with as many latent tokens of the same width. `peers.py` calls
the libraries, and says where their settings come from.

A plan of DINO-WM takes minutes to hours on a CPU. So a single iteration is timed with two small
numbers of samples, which shows whether time is proportional to them; `--full true` times a whole
plan.
"""

from __future__ import annotations

import difflib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from peers_cases import CHECKPOINTS, HORIZON, PEERS, PRECISIONS, REQUIREMENTS, Peer

from worldmodel.cli import atomic_write_json, exclusive, parse_config, writable_folder
from worldmodel.cli import run as run_command
from worldmodel.errors import UserError

ROOT = Path(__file__).parents[2]
EXTRA = 2  # rollouts of our plans besides the search: the hold action, and the final verification

Times = dict[tuple[int, int], list[float]]  #: (samples, iterations) -> milliseconds of each round


@dataclass(frozen=True)
class PeersConfig:
    """Settings of the comparison."""

    out: Path = Path("out/peers.json")
    """File for all numbers."""
    envs: Path = Path(".cache/peers")
    """Folder for the libraries' virtual environments."""
    only: list[str] = field(default_factory=list)
    """Libraries to time, by default all; may be given again."""
    threads: int | None = None
    """Threads of each library; default: OMP_NUM_THREADS, or one per CPU."""
    rounds: int = 3
    """Number of times that each is timed; plans of 300 x 30 once."""
    few: tuple[int, int] = (4, 8)
    """Samples with which a single iteration of DINO-WM is timed."""
    full: bool = False
    """Time DINO-WM's whole plan of 300 samples x 10 iterations, once."""

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in REQUIREMENTS:
                near = difflib.get_close_matches(name, REQUIREMENTS, 1, 0.4)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise UserError(
                    f"no library is called {name!r}: {hint}known are {', '.join(REQUIREMENTS)}"
                )
        for key, least in (("threads", 1), ("rounds", 1)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise UserError(f"{key} is {value}: it must be at least {least}")
        if not 2 <= self.few[0] < self.few[1]:
            raise UserError(
                f"few is {list(self.few)}: it must be two numbers of samples, the first at least "
                "2, the second larger"
            )


class FailedError(Exception):
    """Why a library could not be timed: its row says so."""


# ----------------------------------------------------------------------------------- environments
def requirements(library: str) -> list[str]:
    """What pip is to install: the same release of torch for all, wherever it was built."""
    wanted = [*REQUIREMENTS[library], f"torch=={metadata.version('torch').partition('+')[0]}"]
    if library == "pytorch-mppi":  # our predictor runs inside it
        try:
            ours = metadata.requires("worldmodel") or []
        except metadata.PackageNotFoundError:
            raise FailedError("could not be installed: first pip install this project") from None
        wanted += [each for each in ours if "extra ==" not in each]
    return wanted


def environment(library: str, envs: Path) -> Path:
    """The Python of a library's environment, which is created on first use.

    Raises:
        FailedError: it cannot be created.
    """
    folder, wanted = envs / library, requirements(library)
    python, done = folder / "bin" / "python", folder / "installed.json"
    if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == wanted:
        return python
    print(f"installing {' '.join(wanted)} into {folder} ...", file=sys.stderr, flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--retries", "2", *wanted],
    ):
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            output = (made.stderr + made.stdout).splitlines()
            errors = [line for line in output if line.startswith(("ERROR", "Error"))]
            reasons = errors or output[-1:]
            raise FailedError(f"could not be installed: {'; '.join(reasons[:2])}")
    atomic_write_json(done, wanted)
    return python


class Worker:
    """A process that plans on request; see `peers.py`."""

    def __init__(self, library: str, python: Path, envs: Path, threads: int) -> None:
        """`python`: that of its environment. What it prints goes to a file in `envs`."""
        self.log = envs / f"{library}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [str(python), "-W", "ignore", str(Path(__file__).with_name("peers.py")), library],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)},
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            FailedError: it cannot be answered.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        time.sleep(0.02)  # threads of the previous worker still spin for a while
        line = ""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            reason = f"exit status {self.process.wait(timeout=10)}" + "".join(
                f", {text}" for text in last
            )
            raise FailedError(f"crashed: {reason}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FailedError(f"failed: {answer['error']}")
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


# ------------------------------------------------------------------------------------- arithmetic
def scaled(ms: float, timed: tuple[int, int], budget: tuple[int, int]) -> float:
    """Milliseconds of a plan with a budget (samples, iterations), in proportion to those of a
    smaller budget."""
    return ms * (budget[0] * budget[1]) / (timed[0] * timed[1])


def bend(few: Times) -> float:
    """By how much longer a sample takes in the larger batch: 0 if time is proportional to samples,
    0.1 for 10 % more."""
    (small, large) = (np.median(few[key]) / (key[0] * key[1]) for key in sorted(few))
    return float(large / small - 1)


def equal_size(
    ours: Times, timed: tuple[int, int], budget: tuple[int, int], theirs: list[float]
) -> dict[str, Any]:
    """Milliseconds of our model of the library's size, for the budget, and theirs / ours. Our plans
    have `EXTRA` rollouts more than their budget says."""
    factor = (budget[0] * budget[1] + EXTRA) / (timed[0] * timed[1] + EXTRA)
    ms = [factor * each for each in ours[timed]]
    pairs = zip((scaled(each, timed, budget) for each in theirs), ms, strict=False)
    return {
        "ms": float(np.median(ms)),
        "ms_rounds": ms,
        "ratio": float(np.median([them / us for them, us in pairs])),
    }


def row(peer: Peer, precision: str, budget: tuple[int, int], found: dict[str, Any]) -> dict:
    """One row of the table, from the result of `rounds`."""
    theirs: Times = found["peer"]
    timed = budget if budget in theirs else max(theirs)
    ms = [scaled(each, timed, budget) for each in theirs[timed]]
    samples, iterations = budget
    line: dict[str, Any] = {
        "model": peer.model,
        "library": peer.package,
        "precision": precision,
        "samples": samples,
        "iterations": iterations,
        "horizon": HORIZON,
        "parameters": found["size"]["parameters"],
        "tokens": found["size"]["tokens"],
        "flops": found["size"]["flops"] * samples * iterations,
        "ms": float(np.median(ms)),
        "ms_rounds": ms,
        "ours": {},
        "ceiling_flops_per_s": max(found["ceiling"]),
    }
    if timed != budget:
        line["scaled_from"] = {"samples": timed[0], "iterations": timed[1]}
        line["timed"] = [
            {"samples": s, "iterations": i, "ms_rounds": each} for (s, i), each in theirs.items()
        ]
        if len(theirs) > 1:
            line["bend"] = bend(theirs)
    if equal := found.get("equal"):
        line["equal"] = equal_size(equal, timed, budget, theirs[timed]) | found["equal_size"]
    for checkpoint, times in found["ours"].items():
        # A single timing is paired with the first of the others.
        pairs = list(zip(ms, times[budget], strict=False))
        line["ours"][checkpoint] = {
            "ms": float(np.median(times[budget])),
            "ms_rounds": times[budget],
            "ratio": float(np.median([them / us for them, us in pairs])),
            **found["ours_size"][checkpoint],
        }
        if found["alone"]:
            alone = np.array(found["alone"][budget])
            line["alone_ms"] = float(np.median(alone))
            line["sampler_ms"] = float(np.median(np.array(ms) - alone))
            line["ours"][checkpoint]["sampler_ms"] = float(np.median(times[budget] - alone))
    return line


# ----------------------------------------------------------------------------------------- timing
def rounds(
    peer: Peer, precision: str, config: PeersConfig, workers: dict[str, Worker]
) -> dict[str, Any]:
    """Time theirs and ours in turn: milliseconds, sizes, and the ceiling of each round."""
    timed = list(peer.budgets)
    if peer.slow:
        timed = timed[:1] if config.full else [(samples, 1) for samples in config.few]
    theirs: Times = {budget: [] for budget in timed}
    ours: dict[str, Times] = {name: {budget: [] for budget in peer.budgets} for name in peer.ours}
    alone: Times = {budget: [] for budget in peer.budgets if peer.alone}
    equal: Times = {budget: [] for budget in timed if not peer.alone}
    found: dict[str, Any] = {"peer": theirs, "ours": ours, "alone": alone, "equal": equal}
    found |= {"ours_size": {}, "ceiling": []}

    def ask(who: str, case: str, budget: tuple[int, int], times: Times) -> dict[str, Any]:
        answer = workers[who].ask(
            case=case,
            precision=precision,
            samples=budget[0],
            iterations=budget[1],
            horizon=HORIZON,
        )
        times[budget].append(answer["ms"])
        return {key: answer[key] for key in ("parameters", "tokens", "flops")}

    turns = 1 if peer.slow and config.full else config.rounds
    if peer.alone:
        turns *= 10  # plans are short, and the difference is small
    once = peer.budgets[1:]  # longer plans are timed once
    for turn in range(turns):
        answer = workers["ours"].ask(case="products", precision=precision)
        found["ceiling"].append(answer["flops_per_s"])
        for mine, other in itertools.zip_longest(peer.budgets, timed):
            if other and not (turn and other in once):  # first, because it may fail
                size = found["size"] = ask(peer.package, peer.case, other, theirs)
                if not peer.alone:
                    case = "untrained {}x{}".format(*size["tokens"])
                    found["equal_size"] = ask("ours", case, other, equal)
            if mine and not (turn and mine in once):
                for name, (who, case) in peer.ours.items():
                    found["ours_size"][name] = ask(who, case, mine, ours[name])
            if mine in alone:
                ask(peer.package, peer.alone, mine, alone)
    return found


def time_all(config: PeersConfig, threads: int) -> Iterator[list[dict[str, Any]]]:
    """Time every library: yields the rows of one model in one precision."""
    with Worker("ours", Path(sys.executable), config.envs, threads) as ours:
        try:
            for name, precision in itertools.product(CHECKPOINTS, PRECISIONS):
                small = {"samples": 2, "iterations": 1, "horizon": HORIZON}
                ours.ask(case=name, precision=precision, **small)
        except FailedError as error:
            raise UserError(f"this project's own plan of {name} {error}") from None
        for library in config.only or REQUIREMENTS:
            python, reason = None, ""
            try:
                python = environment(library, config.envs)
            except FailedError as error:
                reason = str(error)
            peers = [peer for peer in PEERS if peer.package == library]
            for peer, precision in itertools.product(peers, PRECISIONS):
                if python is not None:
                    doing = f"timing {peer.model} of {library} in {precision} ..."
                    print(doing, file=sys.stderr, flush=True)
                    try:
                        with Worker(library, python, config.envs, threads) as theirs:
                            found = rounds(peer, precision, config, {"ours": ours, library: theirs})
                        yield [row(peer, precision, budget, found) for budget in peer.budgets]
                        continue
                    except FailedError as error:
                        reason = str(error)
                case = {"model": peer.model, "library": library, "precision": precision}
                yield [case | {"error": reason}]


# ------------------------------------------------------------------------------------------ table
def shown(value: float) -> str:
    """Milliseconds or a ratio, to three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, followed by notes."""
    rows = result["rows"]
    ceilings: dict[str, float] = {}  # the best of the whole run
    for r in rows:
        if "error" not in r:
            best = ceilings.get(r["precision"], 0.0)
            ceilings[r["precision"]] = max(best, r["ceiling_flops_per_s"])
    products = [f"{value / 1e9:,.0f} GFLOP/s in {name}" for name, value in ceilings.items()]
    heads = ["model", "library", "parameters", "tokens per frame", "precision"]
    heads += ["samples x iterations x horizon", "ms per plan", "of the ceiling"]
    heads += ["ours of equal size, ms", "theirs / ours"]
    heads += [head for name in CHECKPOINTS for head in (f"our {name}, ms", "theirs / ours")]
    lines = [
        f"{result['threads']} threads, torch {result['torch']}, encoding not included; matrix "
        f"products in the same run: {', '.join(products) or 'not timed'}",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    notes: dict[str, None] = {}  # in order, each once
    for r in rows:
        library = REQUIREMENTS[r["library"]][0].replace("==", " ")
        if "error" in r:
            cells = [r["model"], library, "", "", r["precision"], "", r["error"].replace("|", "/")]
        else:
            cells = [
                r["model"],
                library,
                f"{r['parameters'] / 1e6:.2f} M",
                f"{r['tokens'][0]} x {r['tokens'][1]}",
                r["precision"],
                f"{r['samples']} x {r['iterations']} x {r['horizon']}",
                shown(r["ms"]) + source(r),
                f"{r['flops'] / (1e-3 * r['ms']) / ceilings[r['precision']]:.0%}",
            ]
            equal = r.get("equal")
            cells += [shown(equal["ms"]), shown(equal["ratio"])] if equal else ["", ""]
            for name in CHECKPOINTS:
                mine = r["ours"].get(name)
                cells += [shown(mine["ms"]), shown(mine["ratio"])] if mine else ["", ""]
            notes |= dict.fromkeys(remarks(r, f"{r['model']}, {library}, {r['precision']}"))
        cells += [""] * (len(heads) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    sizes = {name: mine for r in rows for name, mine in r.get("ours", {}).items()}
    for name, mine in sizes.items():
        notes[
            f"our {name}: {mine['parameters'] / 1e6:.2f} M parameters, {mine['tokens'][0]} x "
            f"{mine['tokens'][1]} numbers per frame"
        ] = None
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def source(line: dict[str, Any]) -> str:
    """For scaled times: the budget that was timed, in brackets."""
    if "scaled_from" not in line:
        return ""
    samples, iterations = line["scaled_from"].values()
    return f" (scaled from {samples} samples x {iterations} iteration{'s' * (iterations > 1)})"


def remarks(line: dict[str, Any], who: str) -> list[str]:
    """Notes on a row, below the table."""
    notes = []
    if "bend" in line:
        a_sample = ", ".join(
            f"{shown(float(np.median(each['ms_rounds'])) / each['samples'])} ms with "
            f"{each['samples']}"
            for each in line["timed"]
        )
        doubt = "" if abs(line["bend"]) < 0.15 else ": not proportional, so time it again"
        notes.append(f"{who}: each sample takes {a_sample} at once ({line['bend']:+.1%}){doubt}")
    if "alone_ms" in line:
        (mine,) = line["ours"].values()
        notes.append(
            f"{who}: rollout and cost alone take {shown(line['alone_ms'])} ms, which leaves "
            f"{shown(line['sampler_ms'])} ms to theirs and {shown(mine['sampler_ms'])} ms to ours"
        )
    return notes


@run_command
def main(argv: Sequence[str] | None = None) -> None:
    """Install missing libraries, time them, write the result, print the table."""
    config = parse_config(
        PeersConfig,
        None if argv is None else list(argv),
        "tests.bench.bench_peers",
        "Milliseconds of one plan of other libraries and ours, in the same run.",
    )
    threads = config.threads
    if threads is None:
        given = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1
    writable_folder(config.out.parent)
    writable_folder(config.envs)
    with exclusive(config.envs / "lock", "timing with these environments"):
        result: dict[str, Any] = {"threads": threads, "torch": metadata.version("torch")}
        result |= {"rounds": config.rounds, "rows": []}
        for rows in time_all(config, threads):
            result["rows"] += rows
            atomic_write_json(config.out, result)  # after each model, in case the run ends early
    print(table(result))
    print(f"wrote {config.out}")


if __name__ == "__main__":
    sys.exit(main())
