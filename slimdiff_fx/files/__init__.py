"""Files written whole or not at all, and known again: whose they are, and whether they are what was written.

It takes paths and what is to be in them. It knows the formats of plans and statistics and the record of a saved folder,
not how models or pipelines are loaded.
"""
