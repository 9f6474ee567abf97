"""What matters of other people's error messages."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Give what matters of an error's message, which in exporters and runtimes can be pages."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
