"""What each command does once its options are read, and what it prints.

It takes options, calls the wings below, and speaks in options where they speak in arguments.
"""
