"""Quantize a slim denoiser with other people's quantizers, on this project's calibration data."""
