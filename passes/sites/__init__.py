"""Where units can be removed: attention heads and feed-forward neurons, found by the shape of the graph.

It takes a `Program` and gives `Site`s, or the reason why what looks like one isn't. It knows neither what a unit
carries nor what is to go: plans, statistics and costs are above it. What a kind of site is to those is in its record,
in `passes/kinds/`; here is only the form of that record, and the list of where the records are.
"""
