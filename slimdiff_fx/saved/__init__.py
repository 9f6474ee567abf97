"""The folder that slimming leaves: pipeline, plans, report, model card and page, and whether it gives back what it was.

It takes the facts of a slimmed model and writes them, or reads them again. It knows nothing of how they were found.
"""
