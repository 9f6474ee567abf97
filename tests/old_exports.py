"""What an export of each format looks like from outside, for tests of what becomes of one that is there already."""

from __future__ import annotations

import io
import zipfile


def _archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("old/archive_format", "pt2")
    return content.getvalue()


ONNX = b"\x08\x08\x12old"
OPENVINO = b'<?xml version="1.0"?>\n<net name="old" version="11">\n<layers>'
PT2 = _archive()
