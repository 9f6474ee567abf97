"""Closed forms: what is lost with each unit, and the weights that make up for it best.

It takes statistics and weights of one site and gives errors, orders of elimination and new weights. It knows nothing of
the other sites: what goes where is decided above.
"""
