"""A program as a file that other software runs, one format in one file, each compared with the program.

It takes a `Program` and a path. It knows no pipeline: what it writes is the denoiser alone.
"""
