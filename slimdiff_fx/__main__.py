"""`python -m slimdiff_fx`: the command line."""

from slimdiff_fx.cli import main

if __name__ == "__main__":
    main()
