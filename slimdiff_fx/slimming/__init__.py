"""The job: calibrate, plan, rewrite, prove, in one call, stage by stage, or while something compiles.

It takes a pipeline or a model and gives a `SlimResult`. `job.py` has its steps, each once; the call, the stages and the
commands above are doors to them. It prints nothing: whoever watches hands it a listener.
"""
