"""What lies on the hub: upload a slim pipeline, and list the files of one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import create_repo, list_repo_files, try_to_load_from_cache, upload_folder

from slimdiff_fx.pipelines.variants import grouped

if TYPE_CHECKING:
    from slimdiff_fx.slimming.result import SlimResult


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


def hub_files(repo_id: str) -> dict[str, list[str]]:
    """List the files of each component of a pipeline on the hub; without a network, those in the local cache."""
    try:
        return grouped(list_repo_files(repo_id))
    except Exception:  # of any of several HTTP libraries, or none: whoever asks has an error of its own to raise
        index = try_to_load_from_cache(repo_id, "model_index.json")
    if not isinstance(index, str):
        return {}
    snapshot = Path(index).parent
    return grouped(file.relative_to(snapshot).as_posix() for file in snapshot.glob("*/*") if file.is_file())
