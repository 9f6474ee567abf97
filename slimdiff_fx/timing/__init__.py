"""Run a program on any runtime and time several in turn, so that a noisy machine is noisy for all of them.

It takes programs and inputs and gives seconds. It knows no budget and no plan.
"""
