"""Processes that tests start, and never leave behind."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def started(args: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A running process with text pipes. It is killed at the end of the ``with`` block."""
    process = subprocess.Popen(args, text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)
