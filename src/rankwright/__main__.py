"""`python -m rankwright` is the `rankwright` command."""

from .cli import main

if __name__ == "__main__":
    main()
