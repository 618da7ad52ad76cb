"""Round trips of robots that a server plans for, in real time.

    python tests/bench/bench_server.py [--checkpoint pusht-fast] [--robots 1] [--hz 10]

The server runs as a process of its own. Each robot sends camera images of 640 x 480 pixels at its
rate and waits for the action. A round trip is from before the message is packed to after the answer
is unpacked; one that takes longer than the period is late.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import connect

from worldmodel.cli import atomic_write_json, parse_config, run
from worldmodel.deploy.wire import pack, unpack
from worldmodel.errors import UserError

WARM_UP = 10  # messages of each robot that do not count


@dataclass(frozen=True)
class BenchServerConfig:
    """Which robots ask."""

    checkpoint: str = "pusht-fast"
    """Bundled name or folder."""
    robots: int = 1
    """Number of robots at once."""
    hz: float = 10.0
    """Messages a second, of each."""
    seconds: float = 30.0
    """How long each robot runs."""
    budget_ms: float = 60.0
    """Milliseconds from an observation to the action, in the server."""
    out: Path | None = None
    """JSON file to write."""


def drive(address: str, config: BenchServerConfig, seed: int, times: list[float]) -> None:
    """One robot: append the milliseconds of its round trips."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (4, 480, 640, 3), dtype=np.uint8)
    with connect(address, compression=None, max_size=None) as server:
        metadata = unpack(server.recv(timeout=60))
        proprio = np.zeros(len(metadata["proprio_names"]), np.float32)
        server.send(pack({"goal": images[0]}))
        unpack(server.recv(timeout=60))
        start = time.monotonic()
        for number in range(int(config.hz * config.seconds)):
            time.sleep(max(0.0, start + number / config.hz - time.monotonic()))
            begun = time.perf_counter()
            server.send(pack({"pixels": images[number % 4], "proprio": proprio}))
            answer = unpack(server.recv(timeout=60))
            assert answer["actions"].shape == (1, len(metadata["action_low"]))
            if number >= WARM_UP:
                times.append(1e3 * (time.perf_counter() - begun))


def measure(config: BenchServerConfig) -> dict[str, Any]:
    """Start the server and the robots; milliseconds of all round trips."""
    command = [sys.executable, "-m", "worldmodel.serve", "--checkpoint", config.checkpoint]
    command += ["--port", "0", "--agent.budget_ms", str(config.budget_ms)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[2].rstrip(";")
        times: list[list[float]] = [[] for _ in range(config.robots)]
        threads = [
            threading.Thread(target=drive, args=(address, config, seed, mine))
            for seed, mine in enumerate(times)
        ]
        for number, thread in enumerate(threads):
            time.sleep(number / config.hz / config.robots)  # robots are not in step
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        process.terminate()
        process.wait(timeout=20)
    found = np.concatenate(times)
    if not len(found):
        raise UserError(f"seconds is {config.seconds}: too few for {WARM_UP} messages")
    p50, p99 = np.percentile(found, [50, 99])
    return {
        "checkpoint": config.checkpoint,
        "robots": config.robots,
        "hz": config.hz,
        "budget_ms": config.budget_ms,
        "messages": len(found),
        "round_trip_ms": {"p50": float(p50), "p99": float(p99), "max": float(found.max())},
        "late": float((found > 1e3 / config.hz).mean()),
    }


@run
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    description = "Time round trips of robots in real time."
    config = parse_config(BenchServerConfig, argv, "bench_server", description)
    result = measure(config)
    if config.out is not None:
        atomic_write_json(config.out, result)
    trip = result["round_trip_ms"]
    print(
        f"{config.robots} robot(s) at {config.hz:g} Hz, {result['messages']} round trips: "
        f"p50 {trip['p50']:.1f} ms, p99 {trip['p99']:.1f} ms, max {trip['max']:.1f} ms; "
        f"late {result['late']:.2%}"
    )


if __name__ == "__main__":
    sys.exit(main())
