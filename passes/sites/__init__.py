"""Where units can be removed: attention heads and feed-forward neurons, found by the shape of the graph.

It takes a `Program` and gives `Site`s, or the reason why what looks like one isn't. It knows neither what a unit
carries nor what is to go: plans, statistics and costs are above it.
"""
