"""What a benchmark writes into the README, between two comments that are its own."""

from __future__ import annotations

from pathlib import Path


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def read_block(name: str, readme: Path) -> str | None:
    """Give what stands there; None without the comments."""
    begin, end = _markers(name)
    text = readme.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        return None
    return text.split(begin, 1)[1].split(end, 1)[0].strip("\n")


def write_block(name: str, content: str, readme: Path) -> None:
    """Put a text there; a README without the comments stays as it is."""
    if read_block(name, readme) is None:
        return
    begin, end = _markers(name)
    before, rest = readme.read_text(encoding="utf-8").split(begin, 1)
    after = rest.split(end, 1)[1]
    readme.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")
