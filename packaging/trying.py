"""Tries wheels: pip chooses one from a folder for an interpreter, in a fresh environment."""

import os
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: A program that opens a thousand connections.
EXAMPLE = ROOT / "examples" / "crawler.py"

PROGRAM = """
import importlib.metadata, importlib.resources
import rondel

async def main():
    await rondel.sleep(0)
    return type(rondel.get_running_loop())

assert rondel.run(main()) is rondel.EventLoop
files = importlib.resources.files("rondel")
assert files.joinpath("py.typed").is_file()
assert files.joinpath("_rondel.pyi").is_file()
distribution = importlib.metadata.distribution("rondel")
assert distribution.version == rondel.__version__, distribution.version
names = {path.name for path in distribution.files}
assert {"LICENSE-MIT", "LICENSE-APACHE"} <= names, names
print("works")
"""
TAGS = """
import importlib.metadata
text = importlib.metadata.distribution("rondel").read_text("WHEEL")
print(*[line.removeprefix("Tag: ") for line in text.splitlines() if line.startswith("Tag: ")])
"""


class Environment:
    """Create a virtual environment in `folder`."""

    def __init__(self, python: Path | str, folder: Path) -> None:
        self._folder = folder
        self._binaries = folder / "venv" / "bin"
        # Dependencies that were built before need not be built again.
        self._variables = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")},
            "CARGO_TARGET_DIR": str(ROOT / "target" / "packaging"),
        }
        self._run(str(python), "-m", "venv", str(folder / "venv"))

    def install(self, *arguments: str) -> None:
        """Run `pip install` with the arguments."""
        self.python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)

    def python(self, *arguments: str) -> str:
        """Run the environment's interpreter; return its output."""
        return self._run(str(self._binaries / "python"), *arguments)

    def use(self) -> None:
        """Use the installed package: as a module, by both commands, and for a program."""
        assert self.python("-c", PROGRAM) == "works\n"
        for command in ([str(self._binaries / "rondel")], [str(self._binaries / "python"), "-m", "rondel"]):
            assert self._run(*command, "--version").startswith("rondel ")
            assert self._run(*command, "-c", "import asyncio, rondel; print(asyncio.Lock is rondel.Lock)") == "True\n"
        assert "1000 pages" in self.python("-m", "rondel", str(EXAMPLE))

    def _run(self, *command: str) -> str:
        return subprocess.run(
            command,
            cwd=self._folder,
            env=self._variables,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=1800,
        ).stdout


def wheel_for(python: Path, wheels: Path) -> Path | None:
    """Return the wheel that pip chooses for an interpreter, after a try; None if none fits."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(python, Path(folder))
        try:
            environment.install("--no-index", "--only-binary", ":all:", "--find-links", str(wheels.resolve()), "rondel")
        except subprocess.CalledProcessError:
            return None
        environment.use()
        interpreter, abi, platform = environment.python("-c", TAGS).split()[0].split("-")
    (wheel,) = [path for path in wheels.glob(f"*-{interpreter}-{abi}-*.whl") if platform in path.name]
    return wheel
