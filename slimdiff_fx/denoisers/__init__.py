"""All that knows a diffusers class of denoiser: its inputs, its calls, and what somebody may have put on it.

It takes an eager model and gives what capture needs, or refuses a model that is not as its configuration says. It knows
no pipeline, no calibration and no saved report.
"""
