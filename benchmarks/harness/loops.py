"""The contenders: which there are, how their programs are started, and which of them work here."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import build

PROGRAMS = Path(__file__).parent.parent / "programs"

#: Event loops for Python, in the order of tables and plots. uvloop is what ratios refer to.
PYTHON_LOOPS = ("asyncio", "uvloop", "rloop", "blazio", "rondel")
#: Those that whole programs are measured on as well: zuvloop is for them.
LOOPS_OF_PROGRAMS = ("asyncio", "uvloop", "rloop", "blazio", "zuvloop", "rondel")
#: Loops that are measured with TLS only: asyncio's loop and uvloop, with aiofastnet's transports.
TLS_LOOPS = ("aiofastnet", "aiofastnet-uvloop")
#: asyncio's own loop in a process that has imported Rondel.
BESIDE = "asyncio-beside-rondel"
#: Programs in Rust: the raw epoll server and the runtimes.
NATIVE = {"floor": "bench-floor", "tokio": "bench-tokio", "rondel-rust": "bench-rondel"}
ALL = (*LOOPS_OF_PROGRAMS, *TLS_LOOPS, BESIDE, *NATIVE)


@dataclass(frozen=True)
class Contenders:
    """What a run can measure, and what it can't."""

    python: str
    binaries: Path
    #: Version by contender, of those that work.
    versions: dict[str, str]
    #: Reason by contender, of those that do not.
    skipped: dict[str, str]
    #: Reason by contender, of loops that work but whose module cannot stand in asyncio's place.
    without_module: dict[str, str]
    #: Version and build of the Python interpreter.
    interpreter: str

    def command(self, loop: str, program: str, *arguments: str) -> list[str]:
        """The command line that starts `program` (a Python program's name, or a Rust program's mode) on `loop`."""
        if loop in NATIVE:
            return [str(self.binaries / NATIVE[loop]), program, *arguments]
        return [self.python, str(PROGRAMS / f"{program}.py"), "--loop", loop, *arguments]

    def can_run(self, loop: str, form: str) -> bool:
        """Whether `loop` works in `form` (``loop`` or ``module``)."""
        return loop in self.versions and not (form == "module" and loop in self.without_module)

    def notices(self) -> list[str]:
        """What is not measured, and why."""
        modules = {f"{loop} as a module": reason for loop, reason in self.without_module.items()}
        return [f"{what}: {reason}" for what, reason in {**self.skipped, **modules}.items()]

    @property
    def load_generator(self) -> str:
        """Path of the load generator."""
        return str(self.binaries / "bench-load")


def find(python: str, binaries: Path, wanted: list[str]) -> Contenders:
    """Tries every contender in `wanted`; what does not work is kept with the reason, never an error."""
    versions: dict[str, str] = {}
    skipped: dict[str, str] = {}
    without_module: dict[str, str] = {}
    interpreter = ""
    for loop in wanted:
        if loop in NATIVE:
            if (binaries / NATIVE[loop]).exists():
                versions[loop] = build.version(loop)
            else:
                skipped[loop] = f"{NATIVE[loop]} is not built"
            continue
        found = _probe(python, loop)
        if isinstance(found, str):
            skipped[loop] = found
        else:
            versions[loop] = found["version"]
            interpreter = found["build"]
            if "module_error" in found:
                without_module[loop] = found["module_error"]
    return Contenders(python, binaries, versions, skipped, without_module, interpreter)


def _probe(python: str, loop: str) -> dict[str, str] | str:
    command = [python, str(PROGRAMS / "probe.py"), loop]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return "hangs on a sleep of 1 ms"
    except OSError as error:
        return f"{python}: {error.strerror}"
    try:
        if done.returncode == 0:
            found: dict[str, str] = json.loads(done.stdout)
            return found
    except json.JSONDecodeError:
        pass
    if done.returncode < 0:
        return f"its process was killed by signal {-done.returncode}"
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1]
