"""Clock, memory and ceiling of the machine that a benchmark runs on."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

WARM_UP = 2  # calls that are not counted
SIZES = (512, 1024, 2048, 4096)  # square matrices for the ceiling
SECONDS = 0.5  # no larger product once one takes longer


def milliseconds(call: Callable[[], object]) -> float:
    """The time of one call, with all that it started on a GPU."""
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started)


def timed(call: Callable[[], object], count: int, seconds: float) -> list[float]:
    """Milliseconds of `count` calls, after two warm-up calls. Fewer once `seconds` have passed, but
    at least one."""
    spent: list[float] = []
    begun = time.perf_counter()
    while len(spent) < count + WARM_UP and not (spent and time.perf_counter() - begun > seconds):
        spent.append(milliseconds(call))
    return spent[WARM_UP:] or spent[-1:]


@functools.cache
def product_gflops(m: int, k: int, n: int, device: str = "cpu", seconds: float = 0.3) -> float:
    """Speed of the product of ``[m, k]`` and ``[k, n]`` in bfloat16, the fastest of several:
    10^9 operations a second."""
    x = torch.randn(m, k, device=device).bfloat16()
    weight = torch.randn(n, k, device=device).bfloat16()
    spent: list[float] = []
    begun = time.perf_counter()
    while len(spent) < 3 or time.perf_counter() - begun < seconds:
        spent.append(milliseconds(lambda: F.linear(x, weight)))
    return 2 * m * k * n / min(spent) / 1e6


def ceiling(device: str = "cpu") -> dict[int, float]:
    """10^9 operations a second by the size of square matrices."""
    found: dict[int, float] = {}
    for size in SIZES:
        found[size] = product_gflops(size, size, size, device)
        if 2 * size**3 / found[size] / 1e9 > SECONDS:
            break
    return found


def peak_mb() -> float:
    """The largest memory of this process so far, in MB."""
    try:  # on Linux, getrusage includes what the parent process held
        with open("/proc/self/status") as file:
            return int(file.read().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on a Mac


def processor() -> dict[str, Any]:
    """Instructions of the processor that matter for speed, and its load before the benchmark."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    lines = [line.partition(":")[2] for line in text.splitlines() if line.startswith("flags")]
    flags = lines[0].split() if lines else []
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": [name for name in ("amx_bf16", "avx512_bf16") if name in flags],
        "load": round(os.getloadavg()[0], 2),
    }
