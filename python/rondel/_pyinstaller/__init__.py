"""What PyInstaller is told of this package, which it finds by the entry point `pyinstaller40`."""

import os

__all__ = ("get_hook_dirs",)


def get_hook_dirs() -> list[str]:
    """The folders with hooks."""
    return [os.path.dirname(__file__)]
