"""How each kind of diffusers denoiser is called: example inputs, dynamic sizes, and a thin wrapper to capture."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn
from torch.export import Dim

from passes.capture.capture import capture
from passes.capture.refuse_quantized import refuse_quantized
from passes.errors import UsageError
from passes.program.program import Program
from passes.program.torch_private import tree_map
from slimdiff_fx.denoisers.altered import refuse_altered
from slimdiff_fx.denoisers.residuals import residual_inputs
from slimdiff_fx.denoisers.wrappers import (
    ROOT,
    AddedUNet,
    ClassTextUNet,
    ClassUNet,
    DiT,
    GuidedUNet,
    PixArt,
    PlainUNet,
    ResidualUNet,
    TextUNet,
)

SUPPORTED = ("UNet2DConditionModel", "UNet2DModel", "PixArtTransformer2DModel", "DiTTransformer2DModel")


@dataclass(frozen=True)
class DenoiserInputs:
    """What `passes.capture.capture.capture` needs to know about a denoiser.

    Attributes:
        module: wrapper with named inputs that returns the prediction as a tensor; holds the model as `denoiser`.
        args: example positional inputs.
        kwargs: example keyword inputs.
        dynamic_shapes: which sizes stay open, as `torch.export` takes it.
        timestep: name of the input that holds the timestep, float [B].
        root: the attribute of `module` that holds the model.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    dynamic_shapes: Any
    timestep: str = "timestep"
    root: str = ROOT


def describe(
    model: nn.Module,
    *,
    batch: int = 2,
    height: int | None = None,
    width: int | None = None,
    tokens: int | None = None,
    seed: int = 0,
    residuals: Sequence[str] = (),
) -> DenoiserInputs:
    """Say how a denoiser is called.

    Args:
        model: a diffusers denoiser.
        batch: example batch size, at least 2.
        height: example height in latent pixels; the model's own by default.
        width: example width likewise.
        tokens: example length of the text, 77 by default (120 in PixArt).
        seed: of the random example inputs.
        residuals: "controlnet", "t2i_adapter" or both, of a UNet with text: what those add becomes inputs of the graph,
            under diffusers' own names.

    Returns:
        The wrapper to capture, example inputs and what stays dynamic.

    Raises:
        UsageError: the model is of a class, or has conditions, that this doesn't know; it is quantized already; an
            adapter or a processor is on it; or a size is impossible.
    """
    refuse_quantized(model)
    if batch < 2:
        raise UsageError(f"the example batch is {batch}; use 2 or more: a batch of 1 captures as a constant")
    if not isinstance(model, (UNet2DConditionModel, UNet2DModel, PixArtTransformer2DModel, DiTTransformer2DModel)):
        raise UsageError(f"{type(model).__name__} is not a denoiser this knows; supported are {', '.join(SUPPORTED)}")
    refuse_altered(model)
    example = _Example(model, batch, height, width, tokens, seed)
    further = residual_inputs(model, residuals, example.height, example.width, example.normal)
    if isinstance(model, UNet2DConditionModel):
        found = _describe_unet(model, example)
        return _with_residuals(model, found, further) if further else found
    if isinstance(model, UNet2DModel):
        return _describe_plain_unet(model, example)
    if isinstance(model, PixArtTransformer2DModel):
        return _describe_pixart(model, example)
    return _describe_dit(model, example)


BATCH = Dim("batch", min=1)
TOKENS = Dim("tokens", min=1)
# Heights and widths must often be multiples of something; which, the capture finds out.
_IMAGE = {0: BATCH, 2: Dim.AUTO, 3: Dim.AUTO}
_TEXT = {0: BATCH, 1: TOKENS}


class _Example:
    """Random inputs of the model's own dtype, device and sizes."""

    def __init__(
        self, model: Any, batch: int, height: int | None, width: int | None, tokens: int | None, seed: int
    ) -> None:
        size = model.config.sample_size or 64
        own_height, own_width = (size, size) if isinstance(size, int) else size
        self.batch = batch
        self.height, self.width, self.tokens = height or own_height, width or own_width, tokens
        parameter = next(model.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        value = torch.randn(self.batch, *shape, generator=self._generator, dtype=torch.float32)
        return value.to(self.device, self.dtype)

    def image(self, channels: int) -> Tensor:
        return self.normal(channels, self.height, self.width)

    def below(self, bound: int) -> Tensor:
        return torch.randint(bound, (self.batch,), generator=self._generator).to(self.device)

    def timestep(self) -> Tensor:
        # Schedulers count in whole or in broken steps: float32 holds both.
        return self.below(1000).float()


def _check_factor(example: _Example, factor: int) -> None:
    for name, size in (("height", example.height), ("width", example.width)):
        if size % factor:
            raise UsageError(f"example {name} {size} is no multiple of {factor}, which the model's down-sampling needs")
        if size < 2 * factor:
            raise UsageError(
                f"example {name} {size} leaves a single row at the model's lowest resolution, which captures as a "
                f"constant; use {2 * factor} or more"
            )


def _describe_unet(model: Any, example: _Example) -> DenoiserInputs:
    config = model.config
    _check_factor(example, 2**model.num_upsamplers)
    if config.encoder_hid_dim_type not in (None, "text_proj"):
        raise UsageError(
            f"UNet2DConditionModel with encoder_hid_dim_type {config.encoder_hid_dim_type!r} is not supported"
        )
    width = config.encoder_hid_dim if config.encoder_hid_dim_type else config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    args: tuple[Any, ...] = (
        example.image(config.in_channels),
        example.timestep(),
        example.normal(example.tokens or 77, width),
    )
    shapes: tuple[Any, ...] = (_IMAGE, {0: BATCH}, _TEXT)
    extras = [
        name
        for name, present in (
            ("addition_embed_type", config.addition_embed_type),
            ("class_embed_type", config.class_embed_type or config.num_class_embeds),
            ("time_cond_proj_dim", config.time_cond_proj_dim),
        )
        if present
    ]
    if len(extras) > 1:
        raise UsageError(f"UNet2DConditionModel with {' and '.join(extras)} at once is not supported")
    if not extras:
        return DenoiserInputs(TextUNet(model), args, {}, shapes)
    if extras == ["time_cond_proj_dim"]:
        guidance = example.normal(config.time_cond_proj_dim)
        return DenoiserInputs(GuidedUNet(model), (*args, guidance), {}, (*shapes, {0: BATCH}))
    if extras == ["class_embed_type"]:
        if config.class_embed_type not in (None, "timestep"):
            raise UsageError(f"UNet2DConditionModel with class_embed_type {config.class_embed_type!r} is not supported")
        labels = example.below(config.num_class_embeds or 1000)
        return DenoiserInputs(ClassTextUNet(model), (*args, labels), {}, (*shapes, {0: BATCH}))
    if config.addition_embed_type != "text_time":
        raise UsageError(
            f"UNet2DConditionModel with addition_embed_type {config.addition_embed_type!r} is not supported; "
            "only None and 'text_time' (SDXL) are"
        )
    ids = time_ids(config)
    pooled = config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim
    added = {"text_embeds": example.normal(pooled), "time_ids": example.normal(ids)}
    return DenoiserInputs(AddedUNet(model), (*args, added), {}, (*shapes, {name: {0: BATCH} for name in added}))


def _with_residuals(model: nn.Module, plain: DenoiserInputs, residuals: Mapping[str, Any]) -> DenoiserInputs:
    """Add residuals to the inputs of a UNet; its own conditions go by name too then."""
    names = list(inspect.signature(plain.module.forward).parameters)
    conditions = dict(zip(names[3:], plain.args[3:], strict=True))
    shapes = dict(zip(names, plain.dynamic_shapes, strict=True))
    shapes |= {name: tree_map(lambda _: _IMAGE, value) for name, value in residuals.items()}
    return DenoiserInputs(ResidualUNet(model), plain.args[:3], {**conditions, **residuals}, shapes)


def time_ids(config: Any) -> int:
    """Count the time ids of an SDXL UNet: six, but five in the refiner, which takes an aesthetic score for two sizes.

    The configuration holds only the sum of all embeddings; the refiner's 2,560 is 1,280 of text and five times 256.
    """
    refiner = (config.projection_class_embeddings_input_dim, config.addition_time_embed_dim) == (2560, 256)
    return 5 if refiner else 6


def _describe_plain_unet(model: Any, example: _Example) -> DenoiserInputs:
    config = model.config
    _check_factor(example, 2 ** (len(config.block_out_channels) - 1))
    args: tuple[Any, ...] = (example.image(config.in_channels), example.timestep())
    shapes: tuple[Any, ...] = (_IMAGE, {0: BATCH})
    if config.class_embed_type is None and config.num_class_embeds is None:
        return DenoiserInputs(PlainUNet(model), args, {}, shapes)
    if config.class_embed_type == "identity":
        raise UsageError("UNet2DModel with class_embed_type 'identity' is not supported")
    labels = example.below(config.num_class_embeds or 1000)
    return DenoiserInputs(ClassUNet(model), (*args, labels), {}, (*shapes, {0: BATCH}))


def _describe_pixart(model: Any, example: _Example) -> DenoiserInputs:
    config = model.config
    _check_factor(example, config.patch_size)
    length = example.tokens or 120
    mask = torch.ones(example.batch, length, device=example.device, dtype=example.dtype)
    mask[1:, (length + 1) // 2 :] = 0
    args: tuple[Any, ...] = (
        example.image(config.in_channels),
        example.normal(length, config.caption_channels),
        example.timestep(),
        mask,
    )
    shapes: tuple[Any, ...] = (_IMAGE, _TEXT, {0: BATCH}, _TEXT)
    if model.use_additional_conditions:
        sizes = torch.tensor([[float(example.height * 8), float(example.width * 8)]], dtype=example.dtype)
        added = {
            "resolution": sizes.repeat(example.batch, 1).to(example.device),
            "aspect_ratio": torch.ones(example.batch, 1, dtype=example.dtype, device=example.device),
        }
        args, shapes = (*args, added), (*shapes, {name: {0: BATCH} for name in added})
    return DenoiserInputs(PixArt(model), args, {}, shapes)


def _describe_dit(model: Any, example: _Example) -> DenoiserInputs:
    config = model.config
    _check_factor(example, config.patch_size)
    if example.height != example.width:
        raise UsageError(f"DiT draws squares only, not {example.height} by {example.width}")
    args = (example.image(config.in_channels), example.timestep(), example.below(config.num_embeds_ada_norm))
    # The model takes the root of the token count as a number: its size is fixed, its batch is not.
    return DenoiserInputs(DiT(model), args, {}, ({0: BATCH}, {0: BATCH}, {0: BATCH}))


def capture_denoiser(model: nn.Module, **sizes: Any) -> Program:
    """Capture a diffusers denoiser; `sizes` as in `describe`.

    Raises:
        UsageError: `describe` refuses it.
        CaptureError: it can't be captured.
    """
    return capture_inputs(describe(model, **sizes))


def capture_inputs(inputs: DenoiserInputs) -> Program:
    """Capture a denoiser as it is called.

    Raises:
        CaptureError: it can't be captured.
    """
    return capture(
        inputs.module,
        inputs.args,
        inputs.kwargs,
        inputs.dynamic_shapes,
        root=inputs.root,
        timestep=inputs.timestep,
    )
