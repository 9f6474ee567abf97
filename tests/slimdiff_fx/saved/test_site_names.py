"""Short names keep sites apart."""

from __future__ import annotations

from slimdiff_fx.saved.site_names import block_of, short_name


def test_a_name_says_block_numbers_and_module() -> None:
    assert short_name("up_blocks.0.attentions.1.transformer_blocks.0.attn2") == "up 0 · 1.0 · attn2"
    assert short_name("mid_block.attentions.0.transformer_blocks.0.ff.net") == "mid · 0.0 · ff"
    assert short_name("transformer_blocks.3.ff.net") == "transformer 3 · ff"


def test_a_block_is_a_level_or_a_layer() -> None:
    assert block_of("down_blocks.2.attentions.0.attn1") == "down_blocks.2"
    assert block_of("mid_block.attentions.0.attn1") == "mid_block"
    assert block_of("odd.path") == "odd"
