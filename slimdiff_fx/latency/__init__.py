"""Latency as a budget: what each size of each site costs on the target runtime, measured."""
