"""The job: calibrate, plan, rewrite, prove, in one call, stage by stage, or while something compiles.

It takes a pipeline or a model and gives a `SlimResult`. It prints nothing: whoever watches hands it a listener.
"""
