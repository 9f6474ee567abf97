"""Sites by short names, as the terminal and the page call them."""

from __future__ import annotations

import re


def short_name(name: str) -> str:
    """Write a site's path in few letters, still unique in diffusers' denoisers.

    Example:
        >>> short_name("down_blocks.1.attentions.0.transformer_blocks.2.attn1")
        'down 1 · 0.2 · attn1'
    """
    place = block_of(name)
    rest = name[len(place) :].strip(".").removesuffix(".net").split(".")
    numbers = ".".join(part for part in rest if part.isdigit())
    head = place.replace("_blocks.", " ").replace("mid_block", "mid")
    return " · ".join(part for part in (head, numbers, rest[-1]) if part)


def block_of(name: str) -> str:
    """Give the block of the denoiser that a site's path begins with."""
    found = re.match(r"mid_block|\w+\.\d+", name)
    return found.group() if found else name.split(".")[0]
