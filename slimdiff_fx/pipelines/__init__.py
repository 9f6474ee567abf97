"""Load a diffusers pipeline, call it, and watch what reaches its denoiser.

It takes MODEL, prompts and pictures, and gives the denoiser captured, or what it predicts on the way to a picture. It
does not know what is observed, nor that anything will be removed.
"""
