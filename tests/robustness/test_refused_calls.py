"""System calls that a container's filter refuses.

What works on stock asyncio then must work on Rondel. A system call that only Rondel uses must be
replaced by another one, silently and without loss of data.
"""

import functools
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "faults" / "refused.py"
# Calls that stock asyncio needs and Rondel does not.
BETTER = {"accept4", "epoll_create1", "epoll_wait", "sendmsg"}


@functools.cache
def outcomes(impl: str) -> dict[str, dict[str, str]]:
    done = subprocess.run([sys.executable, PROGRAM, impl], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(180)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are x86-64's")
def test_a_refused_call_is_replaced(impl):
    stock, seen = outcomes("asyncio"), outcomes(impl.name)
    if "no filters here" in stock["poll"].values():
        pytest.skip("this process may not filter its system calls")
    worse = {
        (call, error): outcome
        for call, errors in seen.items()
        for error, outcome in errors.items()
        if outcome != "ok" and (stock[call][error] == "ok" or (impl.is_rondel and call in BETTER))
    }
    assert worse == {}
