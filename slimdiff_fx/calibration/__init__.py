"""Run the denoiser over a calibration set through its own pipeline: alone or in ranks, resumed or from the start.

It takes a captured pipeline and samples, and gives stored statistics. It decides nothing from them.
"""
