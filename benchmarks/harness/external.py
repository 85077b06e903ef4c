"""What a case needs that is not this project's: Python packages, and servers of Debian's that programs ask.

The servers are those of `tests/ecosystem/servers.py`. Each is started when it is first needed, on the load generator's core, and
lasts until the harness ends.
"""

import atexit
import contextlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from .cases import Case, Client

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "ecosystem"))
import servers

_started = contextlib.ExitStack()
atexit.register(_started.close)


def missing(case: Case, python: str) -> str | None:
    """Why a case cannot be measured here; None when it can."""
    for module in case.modules:
        if not _has(python, module):
            return f"{module} is not installed"
    if isinstance(case.workload, Client):
        try:
            getattr(servers, case.workload.server).programs()
        except servers.NotHere as error:
            return str(error)
    return None


@cache
def _has(python: str, module: str) -> bool:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    return subprocess.run([python, "-c", code, module], check=False).returncode == 0


@cache
def port_of(server: str, cpu: int | None) -> int:
    """The port of a server that runs, on that core."""
    mine = os.sched_getaffinity(0)
    # Children begin where their parent may run.
    os.sched_setaffinity(0, mine if cpu is None else {cpu})
    try:
        started: Any = _started.enter_context(getattr(servers, server)())
    finally:
        os.sched_setaffinity(0, mine)
    return int(started.port)
