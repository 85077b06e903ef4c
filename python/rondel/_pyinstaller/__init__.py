"""Tells PyInstaller where this package's hook is.

The entry point `pyinstaller40` names this module.
"""

import os

__all__ = ("get_hook_dirs",)


def get_hook_dirs() -> list[str]:
    """Return the folders with hooks."""
    return [os.path.dirname(__file__)]
