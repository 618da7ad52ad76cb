"""The Hugging Face Hub: checkpoints named ``hf:USER/NAME`` or ``hf:USER/NAME@REVISION``.

Its client keeps files in a cache of its own, so a checkpoint is downloaded once and then loads
without network. The client's environment variables hold: HF_HOME moves the cache, HF_ENDPOINT names
a mirror, HF_TOKEN opens private repositories.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

from worldmodel.errors import UserError
from worldmodel.models.findings import CONFIG, PARTS

PREFIX = "hf:"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
REQUIRED = ("format_version", "encoder_hash")  # keys by which a config is one of a checkpoint


@functools.cache  # a program that asks again gets the same revision
def download_checkpoint(name: str) -> Path:
    """The folder of a checkpoint of the Hub. The files of a checkpoint are downloaded, no others.

    Args:
        name: ``hf:USER/NAME``, or ``hf:USER/NAME@REVISION`` for a branch, a tag or a commit.

    Raises:
        UserError: no such repository or revision, no access, no network, or no checkpoint.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    check_repository(repository, name)
    with hub_errors(name):
        found = snapshot_download(repository, revision=revision or None, allow_patterns=[CONFIG])
    folder = Path(found)
    _check_config(folder / CONFIG, name)
    with hub_errors(name):
        # The folder is named by its commit: both downloads are of the same one.
        snapshot_download(repository, revision=folder.name, allow_patterns=list(PARTS))
    return folder


def check_repository(repository: str, given: str) -> None:
    """Raise UserError unless `repository` is of the form USER/NAME; `given` is what was asked."""
    if not REPOSITORY.fullmatch(repository):
        raise UserError(f"{given!r} names no repository: write USER/NAME, as on the Hub")


def _check_config(path: Path, name: str) -> None:
    """A repository of other software is refused before its weights are downloaded."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in REQUIRED if key not in content]
    except FileNotFoundError:
        raise UserError(f"{name} is no checkpoint of this program: it has no {CONFIG}") from None
    except (ValueError, TypeError):
        raise UserError(f"{name} is no checkpoint: its {CONFIG} is not valid") from None
    if missing:
        raise UserError(
            f"{name} is no checkpoint of this program: its {CONFIG} lacks {', '.join(missing)}"
        )


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what the Hub's client raises into a UserError about the repository `name`."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    token = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{name} is gated: accept its terms on {hub}, then {token} of that account"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"no repository {name} on {hub}, or it is private: check the name, or {token}"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the repository has no such revision") from None
    except errors.HFValidationError as error:
        raise UserError(f"{name!r} names no repository: {error}") from None
    except Exception as error:  # the client and its HTTP library raise many kinds
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        reason = error.__cause__ or error
        status = getattr(getattr(reason, "response", None), "status_code", None)
        if status in (401, 403):
            raise UserError(f"{hub} refuses access to {name} ({status}): {token}") from None
        if status is not None:
            raise UserError(f"{hub} fails on {name} ({status}): {str(reason):.200}") from None
        raise UserError(
            f"cannot reach {hub} for {name} ({type(reason).__name__}: {str(reason):.200}): check "
            "the network. HF_ENDPOINT names a mirror, HF_HOME the folder of earlier downloads"
        ) from None
