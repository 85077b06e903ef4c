"""Builds the programs in Rust, or finds those built before."""

import json
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = "rondel-bench"


class BuildError(Exception):
    """cargo is missing or failed."""


def binaries() -> Path:
    """Builds the release binaries and returns the folder they are in."""
    if shutil.which("cargo") is None:
        raise BuildError("cargo was not found; --binaries FOLDER takes programs that are built")
    command = ["cargo", "build", "--release", "--package", PACKAGE]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise BuildError(f"{' '.join(command)} failed")
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if metadata.returncode != 0:
        raise BuildError(f"cargo metadata failed: {metadata.stderr.strip()}")
    return Path(json.loads(metadata.stdout)["target_directory"]) / "release"


def version(program: str) -> str:
    """The version of the crate behind a native contender, as the workspace's lock file has it."""
    crate = {"tokio": "tokio", "rondel-rust": "rondel"}.get(program, PACKAGE)
    return _locked().get(crate, "")


@cache
def _locked() -> dict[str, str]:
    try:
        lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    except OSError:
        return {}
    return {package["name"]: package["version"] for package in lock["package"]}
