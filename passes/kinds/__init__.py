"""The kinds of sites, one file and one record each: how it is found, observed, masked, solved for and called.

A record is handed down: every stage asks `passes.sites.kinds` for the kind of a site and takes from it what it needs.
So this wing knows the stages up to the closed forms, and none of them knows a kind.
"""
