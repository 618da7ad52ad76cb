"""Reading the files that the report is made from; errors name the file and what to do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError
from worldmodel.measure.environments import same_env
from worldmodel.models.checkpoint import CheckpointInfo


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): make it again") from None


def parse_json(text: str, where: str) -> dict[str, Any]:
    """The object in JSON text; errors call it `where`.

    Raises:
        UserError: it is not JSON, or not an object.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}): make it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{where} holds {content!r:.40}, not an object: is it the right file?")
    return content


def read_result(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    return parse_json(read_text(path), str(path))


@contextlib.contextmanager
def written_by(command: str, where: str) -> Iterator[None]:
    """Turn errors about the content of `where` into a UserError: `command` did not write it."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{where} is not what {command} writes: {reason}") from error


def check_env(info: CheckpointInfo, result: dict[str, Any], where: Path) -> None:
    """Raise UserError where a result is about another environment than the checkpoint's."""
    if not same_env(result["env"], info.env_id):
        raise UserError(
            f"{where} is about {result['env']}, but the checkpoint is for {info.env_id}"
        )
