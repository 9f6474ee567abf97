"""The captured denoiser: its graph, sizes, guards and inputs.

It holds what every other wing takes and gives, a `Program`, with what can be said of one without knowing what is in it:
which inputs it takes, which sizes and tensors it has, whose weights they are, how it is fixed to one size. It knows
nothing of sites, plans or how a model is captured.
"""
