"""What ControlNets and T2I-Adapters add inside a UNet, as inputs of its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from diffusers import DiffusionPipeline, MultiAdapter, T2IAdapter, UNet2DConditionModel
from torch import Tensor, nn

from passes.errors import UsageError
from slimdiff_fx.names import CONTROLNET, RESIDUALS, T2I_ADAPTER

# The arguments of the denoiser that hold them.
DOWN, MID, INTRABLOCK = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
)


def residual_inputs(
    model: nn.Module, kinds: Sequence[str], height: int, width: int, normal: Callable[[int, int, int], Tensor]
) -> dict[str, Any]:
    """Make example residuals, in the shapes that this UNet adds them in.

    Args:
        model: the denoiser.
        kinds: of `slimdiff_fx.names.RESIDUALS`.
        height: of the example, in latent pixels.
        width: likewise.
        normal: draws a batch of the given channels, height and width.

    Returns:
        Keyword arguments of the denoiser: tuples of float [B, C, h, w], and for the mid block one such tensor.

    Raises:
        UsageError: an unknown kind, or a model that takes none.
    """
    unknown = [kind for kind in kinds if kind not in RESIDUALS]
    if unknown:
        raise UsageError(f"unknown residuals {unknown[0]!r}; there are {', '.join(RESIDUALS)}")
    if not kinds:
        return {}
    if not isinstance(model, UNet2DConditionModel):
        raise UsageError(f"{type(model).__name__} takes no residuals of a ControlNet or T2I-Adapter")

    def draw(channels: int, level: int) -> Tensor:
        return normal(channels, height >> level, width >> level)

    mid = (int(model.config.block_out_channels[-1]), model.num_upsamplers)
    made: dict[str, Any] = {}
    if CONTROLNET in kinds:
        made[DOWN] = tuple(draw(*shape) for shape in _skip_shapes(model))
        made[MID] = draw(*mid)
    if T2I_ADAPTER in kinds:
        shapes = list(_block_shapes(model))
        if model.config.addition_embed_type == "text_time":
            shapes.append(mid)  # SDXL's adapters reach into the mid block
        made[INTRABLOCK] = tuple(draw(*shape) for shape in shapes)
    return made


def pipeline_residuals(pipe: DiffusionPipeline) -> tuple[str, ...]:
    """Say which residuals a pipeline gives its denoiser."""
    found = []
    if getattr(pipe, "controlnet", None) is not None:
        found.append(CONTROLNET)
    if isinstance(getattr(pipe, "adapter", None), T2IAdapter | MultiAdapter):
        found.append(T2I_ADAPTER)
    return tuple(found)


def _skip_shapes(model: UNet2DConditionModel) -> Iterator[tuple[int, int]]:
    """Walk over the skip connections: their channels, and how often they were halved."""
    level = 0
    yield model.conv_in.out_channels, level
    for block in model.down_blocks:
        for resnet in block.resnets:
            yield resnet.out_channels, level
        if block.downsamplers:
            level += 1
            yield block.resnets[-1].out_channels, level


def _block_shapes(model: UNet2DConditionModel) -> Iterator[tuple[int, int]]:
    """Walk over the down blocks: cross-attention blocks add a residual before they halve, the others after it."""
    level = 0
    for block in model.down_blocks:
        halved = level + bool(block.downsamplers)
        yield block.resnets[-1].out_channels, level if getattr(block, "has_cross_attention", False) else halved
        level = halved
