"""Files that are complete or absent."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError


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
        ValueError: `content` holds a NaN or an infinity, which JSON cannot express.
    """
    atomic_write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def writable_folder(folder: Path) -> None:
    """Make `folder`, and check before the work that results can be written to it.

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
    """Hold the lock file `path`; the system releases it even if the process is killed.

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
