"""`python -m rankwright` is the `rankwright` command (torchrun uses it)."""

from .cli import main

if __name__ == "__main__":
    main()
