"""What every command line shares: configs from YAML and flags, exit codes, progress, safe files.

A command is a frozen dataclass and a function::

    @run
    def main(argv: list[str] | None = None) -> int | None:
        config = parse_config(Config, argv, "worldmodel.train", "Train a predictor.")
        ...

Bad input ends in one line on stderr, ``error: ...``, and exit status 2; Ctrl-C in 130.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import json
import os
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import jsonargparse
import yaml

from worldmodel.errors import UserError

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


# ------------------------------------------------------------------------------------ configs
def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _fields(cls: type, prefix: str = "") -> dict[str, bool]:
    """Dotted key of every field -> whether any sub-key may follow it (a plain dict)."""
    keys: dict[str, bool] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key, hint = prefix + field.name, hints[field.name]
        options = typing.get_args(hint) or (hint,)
        nested = [option for option in options if dataclasses.is_dataclass(option)]
        origins = [typing.get_origin(option) or option for option in (hint, *options)]
        keys[key] = dict in origins or hint is Any
        for inner in nested:
            keys.update(_fields(typing.cast(type, inner), key + "."))
    return keys


def _check_key(key: str, keys: Mapping[str, bool], said: str, where: str = "") -> None:
    """Raise UserError naming the nearest key unless `key` is known. `said`: the user's spelling."""
    if key in keys or any(keys.get(key[:at]) for at, sign in enumerate(key) if sign == "."):
        return
    # A right name under the wrong parent is the commonest slip: compare last parts too.
    near = difflib.get_close_matches(key, keys, 1, 0.6)
    last = key.rpartition(".")[2]
    near += [known for known in keys if known.rpartition(".")[2] == last]
    if not near:
        tails = {known.rpartition(".")[2]: known for known in keys}
        near = [tails[tail] for tail in difflib.get_close_matches(last, tails, 1, 0.6)]
    dash = "--" if said.startswith("--") else ""
    hint = f"did you mean {dash + near[0]!r}?" if near else "--help lists them all"
    raise UserError(f"unknown {'flag' if dash else 'key'} {said!r}{where}: {hint}")


def _check_yaml(path: Path, keys: Mapping[str, bool]) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not valid YAML: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold `key: value` lines, not {content!r:.60}")

    def visit(values: Mapping[Any, Any], prefix: str) -> None:
        for name, value in values.items():
            key = f"{prefix}{name}"
            _check_key(key, keys, key, f" in {path}")
            if isinstance(value, Mapping) and not keys.get(key, True):
                visit(value, key + ".")

    visit(content, "")


def _check_arguments(arguments: list[str], keys: Mapping[str, bool]) -> None:
    known = {**keys, "config": False, "help": False, "print_config": False}
    for position, argument in enumerate(arguments):
        if argument.startswith("--") and len(argument) > 2:
            flag, has_value, value = argument.partition("=")
            _check_key(flag[2:].removesuffix("+").removesuffix(".help"), known, flag)
            if flag == "--config":
                following = arguments[position + 1 : position + 2]
                for path in [value] if has_value else following:
                    _check_yaml(Path(path), keys)


def parse_config(cls: type[T], argv: list[str] | None, prog: str, description: str) -> T:
    """Fill the frozen dataclass `cls` from ``--config file.yaml`` and dotted flags.

    Later arguments win over earlier ones, so flags after ``--config`` override the file.
    Fields may be dataclasses (``--model.depth 4``), dicts (``--env_kwargs.layout U``) or lists, the
    flags of which may be given again. A string just below a field is its help text.

    Args:
        cls: dataclass type; a field without default is a required flag.
        argv: arguments without the program's name; None means ``sys.argv[1:]``. ``--budget-ms`` is
            ``--budget_ms``.
        prog: module that is run, shown as ``python -m prog``.
        description: one sentence for ``--help``.

    Raises:
        UserError: unknown key or flag (naming the nearest known one), a value of the wrong type,
            a missing required one, an unreadable file, or a ValueError out of ``__post_init__``.
    """
    arguments = [_underscored(each) for each in (sys.argv[1:] if argv is None else argv)]
    _check_arguments(arguments, _fields(cls))
    hints = typing.get_type_hints(cls)
    lists = {f"--{name}" for name, hint in hints.items() if typing.get_origin(hint) is list}
    for at, argument in enumerate(arguments):
        flag, sign, value = argument.partition("=")
        if flag in lists and not (value or "".join(arguments[at + 1 : at + 2])).startswith("["):
            arguments[at] = f"{flag}+{sign}{value}"  # jsonargparse's way to append
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"python -m {prog}", description=description, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below")
    parser.add_class_arguments(cls)
    try:
        found = vars(parser.instantiate(parser.parse_args(arguments)))
        return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})  # type: ignore[arg-type]
    except UserError:
        raise
    except (ValueError, TypeError, jsonargparse.ArgumentError) as error:
        raise UserError(_explain(error)) from None


def _underscored(argument: str) -> str:
    """``--a-flag=a-value`` as ``--a_flag=a-value``."""
    flag, sign, value = argument.partition("=")
    return f"--{flag[2:].replace('-', '_')}{sign}{value}" if flag.startswith("--") else argument


def _explain(error: Exception) -> str:
    """jsonargparse's message on one line, in a user's words."""
    text = _one_line(error)
    for said, plain in (
        ('Parser key "', 'the value of "'),
        ("the following arguments are required: ", "missing, and required: --"),
        ("<class 'int'>", "whole number"),
        ("<class 'float'>", "number"),
        ("<class 'bool'>", "true or false"),
        ("typing.Literal", "choice out of "),
    ):
        text = text.replace(said, plain)
    return text


# --------------------------------------------------------------------------------- exit codes
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


# ----------------------------------------------------------------------------------- progress
class Progress(Generic[T]):
    """Progress on stderr: a tqdm bar on a terminal, a line about every ten seconds in a log.

    Iterate over it, or use it as a context manager and call ``update(n, loss=0.1)``; keyword
    figures are shown beside the count.
    """

    def __init__(
        self, iterable: Iterable[T] | None, total: float | None, description: str, unit: str
    ) -> None:
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        self._iterable, self._total, self._count = iterable, total, 0.0
        self._description, self._unit, self._figures = description, unit, ""
        self._start = self._printed = time.monotonic()
        self._closed, self._lined_at = False, 0.0
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm  # type: ignore[import-untyped]

            self._bar = tqdm(total=total, desc=description, unit=unit, dynamic_ncols=True)

    def update(self, n: float = 1, **figures: object) -> None:
        """Count `n` more units done; `figures` (numbers or text) replace those shown before."""
        self._count += n
        if figures:
            shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in figures.items()}
            self._figures = "".join(f", {name} {value}" for name, value in shown.items())
        if self._bar is not None:
            if figures:
                self._bar.set_postfix_str(self._figures[2:], refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._line()

    def close(self) -> None:
        """Print the last line; further calls do nothing."""
        if self._closed:
            return
        self._closed = True
        if self._bar is not None:
            self._bar.close()
        elif self._count and self._lined_at != self._count:
            self._line()

    def _line(self) -> None:
        self._printed, self._lined_at = time.monotonic(), self._count
        seconds = max(self._printed - self._start, 1e-9)
        of_total, left = "", ""
        if self._total:
            of_total = f"/{self._total:g} ({100 * self._count / self._total:.0f} %)"
            if 0 < self._count < self._total:
                left = f", {seconds * (self._total - self._count) / self._count:.0f} s left"
        label = f"{self._description}: " if self._description else ""
        rate = f"{self._count / seconds:.4g} {self._unit}/s"
        print(
            f"{label}{self._count:.12g}{of_total}, {rate}{left}{self._figures}",
            file=sys.stderr,
            flush=True,
        )

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._iterable or ():
                yield item
                self.update()

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress(
    iterable: Iterable[T] | None = None,
    total: float | None = None,
    description: str = "",
    unit: str = "it",
) -> Progress[T]:
    """Progress over `iterable`, or over `total` units counted with ``update``. See Progress."""
    return Progress(iterable, total, description, unit)


# --------------------------------------------------------------------------------- safe files
def atomic_write_bytes(path: str | Path, content: bytes) -> None:
    """Replace `path` by `content`, all or nothing: a reader or a crash never sees half a file.

    Raises:
        UserError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; results are not secret
        os.replace(temporary, path)
    except BaseException as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise UserError(f"cannot write {path}: {reason}") from None
        raise


def atomic_write_text(path: str | Path, content: str) -> None:
    """`atomic_write_bytes` of UTF-8 text."""
    atomic_write_bytes(path, content.encode())


def atomic_write_json(path: str | Path, content: Any) -> None:
    """`atomic_write_bytes` of indented JSON.

    Raises:
        ValueError: `content` holds a NaN or an infinity, which JSON has no word for.
    """
    atomic_write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def writable_folder(folder: Path) -> None:
    """Make `folder`; find out before the work whether there is a place for its results.

    Raises:
        UserError: it cannot be made, or nothing can be written to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None


@contextlib.contextmanager
def exclusive(path: str | Path, doing: str) -> Iterator[None]:
    """Hold the lock file `path`; the system lets go of it even if we are killed.

    Raises:
        UserError: another process holds it; `doing` says what that one is doing.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no such lock; two runs at once are then the user's to avoid
        yield
        return
    try:
        file = open(path, "a")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is {doing} (it holds {path}): wait for it, or stop it"
            ) from None
        yield
