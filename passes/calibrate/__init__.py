"""Observers, and what they add up to while the denoiser runs.

It takes a `Program` with its sites and batches of inputs, and gives `Statistics`: sums over the calibration set that
can be added to others, stored and read back. It knows how to watch, not what the sums are good for.
"""
