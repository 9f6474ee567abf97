"""Proof that a removal is what it says: by DepGraph, by a masked dense program, by comparing predictions.

It takes programs, sites and plans, and gives nothing but an error or a report. It imports nothing of the wing
`rewrite`, so that what proves shares no code with what cuts. `torch_pruning` is known in `coupling` alone.
"""
