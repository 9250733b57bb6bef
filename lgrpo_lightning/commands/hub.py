"""Folders on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lgrpo_lightning.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKENS = "https://huggingface.co/settings/tokens"


def open_hub(repo: str, *, public: bool) -> HfApi:
    """The Hub, where the user may write and ``repo`` is new or as private as asked for; nothing is changed yet.

    Raises:
        UserError: The Hub cannot be used, or the repository is public and ``public`` is False.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise UserError("--push needs the Hub, and HF_HUB_OFFLINE is set. Unset it, or export without --push.")
    if get_token() is None:
        raise UserError(
            f"--push needs a token of the Hub that may write. Make one at {TOKENS}, then run `hf auth login` or set "
            "the variable HF_TOKEN."
        )
    api = HfApi()
    with explain_refusal(f"--push {repo}: {api.endpoint}", f"Look at the name, the network and the token ({TOKENS})."):
        user = api.whoami()["name"]
        try:
            private = api.repo_info(repo if "/" in repo else f"{user}/{repo}").private
        except RepositoryNotFoundError:
            return api
    if not private and not public:
        raise UserError(f"--push {repo}: this repository exists and is public. If you mean it, pass --public.")
    return api


def push_folder(api: HfApi, folder: Path, repo: str, *, public: bool) -> str:
    """Commit the files of ``folder`` to ``repo``, which is made where it is missing; its address."""
    again = f"{folder} is written. Try again: hf upload {repo} {folder}{'' if public else ' --private'}"
    with explain_refusal(f"--push {repo}: {api.endpoint}", again):
        url = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Export of lgrpo_lightning")
    return str(url)


@contextmanager
def explain_refusal(what: str, then: str) -> Iterator[None]:
    """Raise a ``UserError`` for what the Hub answers; the errors of its client have no class in common."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{what}: {str(error).strip() or type(error).__name__}\n{then}") from error
