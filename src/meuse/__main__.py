"""`python -m meuse` is `meuse`."""

from meuse.cli import main

if __name__ == "__main__":
    main()
