"""Names to choose from that no table has: what reads them imports torch or diffusers, and `--help` must not."""

from __future__ import annotations

# The device that is there, or the precision that the checkpoint is stored in.
AUTO = "auto"
# Of torch's, those that weights are loaded and exported in.
PRECISIONS = ("float32", "float16", "bfloat16")
# What the denoiser is watched on.
CALIBRATE_ON = ("trajectory", "pictures")
# What adds to a UNet's activations.
RESIDUALS = CONTROLNET, T2I_ADAPTER = ("controlnet", "t2i_adapter")
# Which runtimes an ONNX file is for.
ONNX_TARGETS = ("generic", "onnxruntime")
