"""The Hugging Face hub: upload a slim pipeline, and list the files of one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import create_repo, upload_folder

from slimdiff_fx.saved.folder import save_result
from slimdiff_fx.saved.slimmed import Slimmed


def push_result(
    result: Slimmed, repo_id: str, *, private: bool | None = None, token: str | None = None, create_pr: bool = False
) -> str:
    """Upload the folder that a result would be saved as; see `SlimResult.push_to_hub`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pipeline"
        save_result(result, folder, overwrite=False)
        repository = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        commit = upload_folder(
            repo_id=repository,
            folder_path=folder,
            token=token,
            commit_message=f"Upload slim {type(result.pipe).__name__}",
            create_pr=create_pr,
        )
    return str(commit)
