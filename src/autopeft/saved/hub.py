"""Putting an exported folder on the Hugging Face Hub: what is in it, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from autopeft.errors import SettingsError, WriteError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_push(repository: str) -> None:
    """Make sure, before any work, that something could be put there.

    Raises:
        SettingsError: the name is none, the Hub must not be asked, or there is no token.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if not _NAME.fullmatch(repository):
        raise SettingsError(f"A place on the Hub is called OWNER/NAME, but got {repository!r}.")
    if constants.HF_HUB_OFFLINE:
        raise SettingsError("Nothing can be put on the Hub while HF_HUB_OFFLINE is set.")
    if not huggingface_hub.get_token():
        raise SettingsError("Nothing can be put on the Hub without a token: run `hf auth login`, or set HF_TOKEN.")


def push(folder: str | Path, repository: str, *, is_public: bool = False) -> str:
    """Put every file of `folder` into a repository of models, which is made, private, where there is none.

    Returns:
        The address of what was put there.

    Raises:
        SettingsError: see `check_push`.
        WriteError: the Hub cannot be reached, or refuses; the folder still stands.
    """
    import huggingface_hub

    check_push(repository)
    # By their names: a file that somebody else leaves there meanwhile is not ours to publish.
    names = sorted(path.name for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith("."))
    try:
        api = huggingface_hub.HfApi()
        api.create_repo(repository, private=not is_public, exist_ok=True)
        told = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=names, commit_message="An adapter by autopeft"
        )
    except Exception as error:  # what carries it has errors of its own, other ones in every release
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WriteError(f"{repository!r} could not be written: {reason} The folder {str(folder)!r} stands.") from error
    return str(told)
