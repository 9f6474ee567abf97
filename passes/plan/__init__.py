"""What stays: the plan, what it costs, how much a budget asks for, and whose plan it is.

It takes sites and gives a `SlimPlan`, a fact that can be written down, read back and checked against a model. It knows
the size of what goes, not what that carried: scores and errors are above it, and so is whatever carries a plan out.
"""
