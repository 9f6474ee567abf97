"""Thin wrappers around diffusers denoisers: named inputs, and the prediction as a tensor; what is captured."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

ROOT = "denoiser"


class _Wrapper(nn.Module):
    """Holds the model under the name in `ROOT`."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser


class TextUNet(_Wrapper):
    """A UNet with text."""

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """Give the prediction, float [B, C, H, W]."""
        result: Tensor = self.denoiser(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return result


class AddedUNet(_Wrapper):
    """A UNet with text and SDXL's added conditions."""

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, added_cond_kwargs: dict[str, Tensor]
    ) -> Tensor:
        """Give the prediction, float [B, C, H, W]."""
        result: Tensor = self.denoiser(
            sample, timestep, encoder_hidden_states, added_cond_kwargs=added_cond_kwargs, return_dict=False
        )[0]
        return result


class GuidedUNet(_Wrapper):
    """A UNet distilled with guidance as an input (latent consistency models)."""

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, timestep_cond: Tensor) -> Tensor:
        """Give the prediction, float [B, C, H, W]."""
        result: Tensor = self.denoiser(
            sample, timestep, encoder_hidden_states, timestep_cond=timestep_cond, return_dict=False
        )[0]
        return result


class ClassTextUNet(_Wrapper):
    """A UNet with text and class labels."""

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, class_labels: Tensor) -> Tensor:
        """Give the prediction, float [B, C, H, W]."""
        result: Tensor = self.denoiser(
            sample, timestep, encoder_hidden_states, class_labels=class_labels, return_dict=False
        )[0]
        return result


class PlainUNet(_Wrapper):
    """A UNet without conditions."""

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Give the prediction, float [B, C, H, W]."""
        result: Tensor = self.denoiser(sample, timestep, return_dict=False)[0]
        return result


class ClassUNet(_Wrapper):
    """A UNet with class labels."""

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """Give the prediction, float [B, C, H, W]."""
        result: Tensor = self.denoiser(sample, timestep, class_labels=class_labels, return_dict=False)[0]
        return result


class PixArt(_Wrapper):
    """A PixArt transformer, at any size."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        encoder_attention_mask: Tensor,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Give the prediction, float [B, C, H, W]."""
        with _any_size(self.denoiser):
            result: Tensor = self.denoiser(
                hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                timestep=timestep,
                added_cond_kwargs=added_cond_kwargs or {"resolution": None, "aspect_ratio": None},
                encoder_attention_mask=encoder_attention_mask,
                return_dict=False,
            )[0]
        return result


class DiT(_Wrapper):
    """A DiT."""

    def forward(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """Give the prediction, float [B, C, H, W]."""
        result: Tensor = self.denoiser(hidden_states, timestep, class_labels, return_dict=False)[0]
        return result


class ResidualUNet(_Wrapper):
    """A UNet with residuals as inputs; what it isn't given is None. Conditions are named as in the UNet itself."""

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        timestep_cond: Tensor | None = None,
        class_labels: Tensor | None = None,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        down_intrablock_additional_residuals: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        """Give the prediction, float [B, C, H, W]."""
        intrablock = down_intrablock_additional_residuals
        result: Tensor = self.denoiser(
            sample,
            timestep,
            encoder_hidden_states,
            added_cond_kwargs=added_cond_kwargs,
            timestep_cond=timestep_cond,
            class_labels=class_labels,
            down_block_additional_residuals=down_block_additional_residuals,
            mid_block_additional_residual=mid_block_additional_residual,
            # the UNet takes them off the list that it is given
            down_intrablock_additional_residuals=None if intrablock is None else list(intrablock),
            return_dict=False,
        )[0]
        return result


class _any_size:
    """Make the patch embedding compute its positions, as it does for every size but the one it was built for.

    At that one size it reads a table of the same values; a captured graph would be bound to it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._embed: Any = model.pos_embed

    def __enter__(self) -> None:
        self._height = self._embed.height
        self._embed.height = -1

    def __exit__(self, *_: object) -> None:
        self._embed.height = self._height
