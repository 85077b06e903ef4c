"""`make test-packaging`: installs the source archive and each matching wheel, and uses them.

It also checks that pip refuses an interpreter that is too old before it builds anything, and that
the metadata is valid for an index.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from trying import ROOT, Environment


def main() -> int:
    parser = argparse.ArgumentParser(description="Installs what was built into fresh environments, and uses it.")
    parser.add_argument(
        "--dist", type=Path, default=ROOT / "dist", help="folder of the archives (default: %(default)s)"
    )
    parser.add_argument("--old-python", help="an interpreter that is too old, to see that it is refused")
    options = parser.parse_args()

    archives = sorted(options.dist.glob("*.tar.gz"))
    if len(archives) != 1:
        parser.error(f"one source archive is wanted in {options.dist}, and there are {len(archives)}")
    wheels = [wheel for wheel in sorted(options.dist.glob("*.whl")) if _fits(wheel)]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *archives, *wheels], check=True)
    _check_contents(archives[0])
    for archive in (*archives, *wheels):
        with tempfile.TemporaryDirectory() as folder:
            print(f"installing {archive.name} ...", flush=True)
            environment = Environment(sys.executable, Path(folder))
            environment.install(str(archive.resolve()))
            environment.use()
    if options.old_python:
        _check_refusal(options.old_python, archives[0])
    print(f"{len(archives) + len(wheels)} passed, 0 failed")
    return 0


def _fits(wheel: Path) -> bool:
    return f"-cp{sys.version_info[0]}{sys.version_info[1]}-" in wheel.name and "manylinux" in wheel.name


def _check_contents(archive: Path) -> None:
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    wanted = {"Cargo.lock", "LICENSE-MIT", "LICENSE-APACHE", "README.md", "pyproject.toml", "python/rondel/py.typed"}
    assert wanted <= names, wanted - names
    assert not [name for name in names if name.startswith(("target/", ".venv", "dist/")) or name.endswith(".so")]


def _check_refusal(python: str, archive: Path) -> None:
    asked = subprocess.run(
        [python, "-m", "pip", "install", "--dry-run", "--no-deps", str(archive)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert asked.returncode != 0
    assert "requires a different Python" in asked.stderr, asked.stderr
    print(f"{python} is refused: {asked.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    sys.exit(main())
