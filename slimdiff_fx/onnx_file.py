"""Put an ONNX file and its data into place, both or neither."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from passes.errors import CheckpointError, SlimDiffError
from slimdiff_fx.atomic_write import flush_to_disk
from slimdiff_fx.first_line import first_line


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """Give a path in a scratch folder beside `path`; on success move the file and its external data into place.

    A scratch folder, because an ONNX file names its data file: both must be written under their final names.

    Raises:
        CheckpointError: the file can't be written.
    """
    if not path.absolute().parent.is_dir():
        raise CheckpointError(f"{path.parent} is no folder; make it first")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name a file")
    scratch: Path | None = None
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.absolute().parent))
        yield scratch / path.name
        # The file last, so that it is never there without the data it names.
        for name in (f"{path.name}.data", path.name):
            if (scratch / name).exists():
                flush_to_disk(scratch / name)
                os.replace(scratch / name, path.with_name(name))
    except SlimDiffError:
        raise
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise CheckpointError(f"could not write {path}: {reason}; free space or choose another place") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
