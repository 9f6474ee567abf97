"""Cut what a plan removes, and mend what in the graph was written for the old sizes.

It takes a `Program` and a `SlimPlan` and gives a smaller `Program`. It decides nothing: what goes is in the plan.
"""
