"""What is on a disk, for tests that nothing of it changes."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def tree(folder: Path) -> dict[str, object]:
    """Give everything below a folder by name: a file's bytes, a link's target, or what kind of thing it is."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            each = Path(place) / name
            mode = each.lstat().st_mode
            content: object = stat.S_IFMT(mode), stat.S_IMODE(mode)
            if stat.S_ISLNK(mode):
                content = os.readlink(each)
            elif stat.S_ISREG(mode):
                content = each.read_bytes()
            found[str(each.relative_to(folder))] = content
    return found
