"""The slim eager model: made by a plan, saved, loaded, and with adapters of the dense one on it.

It takes a dense diffusers model and a plan, or a saved folder, and gives a model of a slim class.
"""
