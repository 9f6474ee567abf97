"""Upload a slim pipeline to the hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import create_repo, upload_folder

if TYPE_CHECKING:
    from slimdiff_fx.slim_result import SlimResult


def push_result(
    result: SlimResult, repo_id: str, *, private: bool | None = None, token: str | None = None, create_pr: bool = False
) -> str:
    """Upload the folder that a result would be saved as; see `SlimResult.push_to_hub`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pipeline"
        result.save_pretrained(folder)
        repository = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        commit = upload_folder(
            repo_id=repository,
            folder_path=folder,
            token=token,
            commit_message=f"Upload slim {type(result.pipe).__name__}",
            create_pr=create_pr,
        )
    return str(commit)
