"""Exit status of a command."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from worldmodel.cli.config import _one_line
from worldmodel.errors import UserError


def run(function: Callable[..., int | None]) -> Callable[..., int]:
    """Make `function` (a ``main``) end like a good Unix command.

    Returns its exit status (None means 0). UserError and OSError (full disk, no permission) print
    one line, ``error: ...``, on stderr and return 2; Ctrl-C returns 130; a reader that closed our
    pipe (``| head``) returns 141 and prints nothing. Other exceptions are bugs and keep their
    traceback.
    """

    @functools.wraps(function)
    def main(*args: Any, **kwargs: Any) -> int:
        try:
            status = function(*args, **kwargs) or 0
            sys.stdout.flush()
            return status
        except UserError as error:
            message = _one_line(error)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The interpreter flushes stdout once more on exit: give it somewhere to flush to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            message = f"{where}{error.strerror or _one_line(error)}"
        print(f"error: {message}", file=sys.stderr)
        return 2

    return main


def warn(sentence: str) -> None:
    """Print a warning: one line on stderr."""
    print(f"warning: {_one_line(sentence)}", file=sys.stderr, flush=True)
