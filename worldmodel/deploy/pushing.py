"""Upload of a checkpoint and its model card to the Hugging Face Hub."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from worldmodel.cli import atomic_write_text
from worldmodel.deploy.card import model_card
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.findings import PARTS, checkpoint_files
from worldmodel.models.hub import check_repository, hub_errors

CARD = "README.md"


@dataclass(frozen=True)
class PushConfig:
    """What to upload, and where to."""

    checkpoint: str
    """Bundled name, folder or hf:USER/NAME."""
    to: str
    """Repository on the Hub, as USER/NAME. It is made if it does not exist."""
    results: str = ""
    """Files that `evaluate --out` wrote, separated by commas, for the model card."""
    license: str = ""
    """License that the card names, by its identifier on the Hub, such as apache-2.0."""
    private: bool = True
    """Whether a new repository is private. One that exists stays as it is."""
    out: Path | None = None
    """New folder to write to what would be uploaded, instead of uploading it."""

    def __post_init__(self) -> None:
        check_repository(self.to, self.to)
        if self.out is not None and self.out.exists():
            raise UserError(f"{self.out} exists: choose another --out")


def push(config: PushConfig) -> str:
    """Upload the files of a checkpoint and its card in one commit, which replaces an earlier
    checkpoint. With `out`, nothing is uploaded.

    Returns:
        Address of the repository, or the folder.

    Raises:
        UserError: a damaged checkpoint, results of another one, a folder that cannot be written, no
            network, or no access.
    """
    parent = None if config.out is None else config.out.absolute().parent
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".push.", dir=parent) as place:
        folder = Path(place) / "files"
        write_upload(config, folder)
        if config.out is None:
            return upload(folder, config.to, config.private)
        os.rename(folder, config.out)
        return str(config.out)


def write_upload(config: PushConfig, folder: Path) -> None:
    """Write the checkpoint's files and the card to `folder`."""
    _, _, info = load_checkpoint(config.checkpoint)  # one that does not load is of no use
    for name, path in checkpoint_files(config.checkpoint).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    results = [Path(name) for name in config.results.split(",") if name]
    card = model_card(config.checkpoint, info, config.to, config.license, results)
    atomic_write_text(folder / CARD, card)
    if not config.license:
        print("the card names no license: give --license, such as apache-2.0", file=sys.stderr)


def upload(folder: Path, repository: str, private: bool) -> str:
    """Upload a folder; returns the repository's address."""
    from huggingface_hub import HfApi

    with hub_errors(repository):
        api = HfApi()
        url = api.create_repo(repository, private=private, exist_ok=True)
        # Findings of an earlier checkpoint must not stay beside this one.
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Upload a checkpoint",
            delete_patterns=list(PARTS),
        )
    return str(url)
