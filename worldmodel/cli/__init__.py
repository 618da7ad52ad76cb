"""Shared by all commands: configs from YAML and flags, exit codes, progress, devices, safe files.

A command is a frozen dataclass and a function::

    @run
    def main(argv: list[str] | None = None) -> int | None:
        config = parse_config(Config, argv, "worldmodel.train", "Train a predictor.")
        ...

Bad input ends in one line on stderr, ``error: ...``, and exit status 2; Ctrl-C in 130.
"""

from __future__ import annotations

from worldmodel.cli.command import run, warn
from worldmodel.cli.config import parse_config
from worldmodel.cli.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    exclusive,
    writable_folder,
)
from worldmodel.cli.progress_bar import Progress, progress

__all__ = [
    "Progress",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "exclusive",
    "parse_config",
    "progress",
    "run",
    "warn",
    "writable_folder",
]
