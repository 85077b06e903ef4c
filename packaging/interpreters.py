"""Finds the interpreters to build wheels for: pyenv's and those on PATH, one per version."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15")


def found() -> dict[str, Path]:
    """Return the interpreters by version, in order."""
    interpreters = {}
    for version in VERSIONS:
        for candidate in _candidates(version):
            if _version_of(candidate) == version:
                interpreters[version] = candidate
                break
    return interpreters


def _candidates(version: str) -> list[Path]:
    if ".".join(map(str, sys.version_info[:2])) == version:
        return [Path(sys.executable)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)
    on_path = shutil.which(f"python{version}")
    return [*candidates, *([Path(on_path)] if on_path else [])]


def _version_of(interpreter: Path) -> str | None:
    """Return an interpreter's version, or None if it does not start (some pyenv shims)."""
    ask = [interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None
