"""Would the tests notice? Small bugs put in one at a time, each against the tests that mirror its file.

`python -m benchmarks.mutants`, or `make mutants`.
"""
