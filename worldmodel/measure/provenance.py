"""Where a result comes from: the command, the commit and the machine, stored with its numbers."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import worldmodel
from worldmodel.cli import atomic_write_text
from worldmodel.models.findings import to_json

VERSIONS = ("worldmodel", "torch", "numpy", "mujoco", "gymnasium")


def save_result(
    path: str | Path, result: Mapping[str, Any], *, device: Any = "cpu", seed: int | None = None
) -> None:
    """Write a result as JSON, with its provenance.

    Args:
        path: the JSON file.
        result: what was measured.
        device: the torch device that computed it.
        seed: of the measurement; default: the result's own ``seed``.

    Raises:
        UserError: the file cannot be written.
        ValueError: the result holds a NaN or an infinity.
    """
    seed = result.get("seed") if seed is None else seed
    content = {**result, "provenance": provenance(device, seed)}
    atomic_write_text(path, to_json(content) + "\n")


def provenance(device: Any = "cpu", seed: int | None = None) -> dict[str, Any]:
    """The command, commit, date, machine, threads, device, seed and package versions."""
    torch: Any = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {
        "command": command_line(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "gpu": gpu},
        "threads": torch.get_num_threads() if torch else 1,
        "device": str(device),
        "seed": seed,
        "versions": {"python": platform.python_version(), **versions()},
    }


def command_line() -> str:
    """The command that runs, for a shell, without absolute paths."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        program = [Path(sys.argv[0]).name]
    else:
        program = ["python", "-m", spec.name.removesuffix(".__main__")]
    return shlex.join(program + [_relative(argument) for argument in sys.argv[1:]])


def _relative(argument: str) -> str:
    """An argument with an absolute path cut to one below the working directory, or to its name."""
    flag, equals, value = (
        argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    )
    path = Path(value)
    if not path.is_absolute():
        return argument
    here = Path.cwd()
    short = path.relative_to(here) if path.is_relative_to(here) else Path(path.name)
    return f"{flag}{equals}{short}"


def commit() -> str | None:
    """The git commit that the package is checked out at, with ``-dirty`` where files differ from
    it; None where the package does not lie in a checkout of its own."""
    root = Path(worldmodel.__file__).resolve().parents[1]
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None
    return _git(root, "describe", "--always", "--dirty", "--exclude=*")


def _git(root: Path, *arguments: str) -> str | None:
    """What a git command prints, or None where it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_model() -> str:
    """The name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions of the packages that numbers depend on."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
