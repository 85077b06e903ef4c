"""`python -m rondel`, the same as the command `rondel`."""

from ._command import main

__all__ = ("main",)

if __name__ == "__main__":
    main()
