"""What is to go: criteria, thresholds, the optimum over all sites under a budget, and the methods that join them.

It takes a `Program`, sites, `Statistics` and a policy, and gives a `SlimPlan` with the error that it expects. It
changes no graph: that is for the wing `rewrite`.
"""
