"""Compression methods compared on one model, with the same data, seeds and budgets, in one run."""
