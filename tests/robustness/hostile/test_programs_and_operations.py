"""Hostile programs and random operations end like on stock asyncio, and never by a signal.

`RONDEL_OPERATIONS=2000 pytest tests/robustness/hostile` does that many runs, with a seed of the
day.
"""

import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from child_programs import LOOPS

FOLDER = Path(__file__).parent
PROGRAMS = sorted(path.stem for path in (FOLDER / "programs").glob("*.py"))
#: Texts on standard error or in a traceback that show a fault of native code.
NATIVE = ("panicked", "SystemError", "internal error", "AddressSanitizer", "RefCell", "Fatal Python error")

#: Programs whose output is not compared, and why.
NOT_COMPARED = {
    "base_class_methods_on_ours": "prints nothing that could differ",
    "buffered_protocol_hostile": "which of two failures comes first depends on the kernel",
    "current_tasks_dict_abuse": "stock asyncio does not survive it",
    "del_gc_in_callbacks": "takes stock asyncio longer than a test may",
    "exception_in_everything": "a report names the class of the transport",
    "executor_hostile": "up to 3.12 it is a race which calls threads have taken when their executor ends",
    "huge_numbers": "stock asyncio's loop ends with an exception",
    "rings_that_show_themselves": "stock asyncio does not survive it in a thread with a small stack",
    "run_forever_reentered": "stock asyncio hangs in some releases",
    "task_made_anew_in_its_step": "stock asyncio does not survive it",
    "threads_nonthreadsafe": "stock asyncio hangs, or its lists fail",
    "threads_write_transport": "stock asyncio hangs at times",
    "uninit_new": "stock asyncio crashes",
}
#: Programs that succeed, but print something else than on stock asyncio: known faults, to be fixed.
DIFFERS = {
    "subinterpreter": "only the main interpreter imports Rondel",
}
if sys.version_info >= (3, 15):
    DIFFERS["bad_buffers_to_write"] = "what stood before a bad line in writelines() is sent; 3.15 keeps it for ever"
RUNS = int(os.environ.get("RONDEL_OPERATIONS", "0"))
SEED = int(time.time()) // 86400 * 100_000 if RUNS else 1
#: Freed memory is overwritten, so that its use is noticed.
ENVIRONMENT = {"PYTHONMALLOC": "debug", **os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONHASHSEED": "0"}


def run(command, timeout):
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)
    return done, signs_of_native_code(done)


def signs_of_native_code(done):
    return [word for word in NATIVE if word in done.stdout + done.stderr]


def run_until_it_hangs(command):
    """Like run(), but return None if the process uses much CPU time, or hangs.

    Slow machines don't matter.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=out, stderr=err, text=True)
        computed, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.02)
            before, computed = computed, seconds_computed(process)
            if computed != before:
                since = time.monotonic()
            if computed > 8 or time.monotonic() - since > 4:
                process.kill()
                process.wait()
                return None
        done = subprocess.CompletedProcess(
            command, process.returncode, *(file.seek(0) or file.read() for file in (out, err))
        )
    return done, signs_of_native_code(done)


def seconds_computed(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


#: Stock asyncio may hang in these, and so may Rondel, but nothing worse may happen.
MAY_HANG = ("baseexception_everywhere", "run_forever_reentered", "threads_nonthreadsafe", "threads_write_transport")


@functools.cache
def program(way, name):
    text = (FOLDER / "programs" / f"{name}.py").read_text().replace("import asyncio\n", LOOPS[way], 1)
    command = [sys.executable, "-c", text]
    if name not in MAY_HANG:
        return run(command, 60)
    return run_until_it_hangs(command) or pytest.skip("it hangs, as on stock asyncio")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("way", ["rondel", "factory"])
def test_a_program_ends_as_on_asyncio(way, name):
    done, wrong = program(way, name)
    assert done.returncode >= 0, f"signal {-done.returncode}:\n{done.stderr}"
    assert not wrong, done.stdout + done.stderr
    if name not in NOT_COMPARED and name not in DIFFERS:
        expected, _ = program("asyncio", name)
        assert (done.stdout, done.returncode) == (expected.stdout, expected.returncode), done.stderr


@functools.cache
def operations(way, profile, runs, steps):
    command = [sys.executable, FOLDER / "operations.py", way, str(SEED), str(runs), str(steps), profile]
    return run(command, 60 + runs)


@pytest.mark.timeout(600 + 4 * RUNS)
@pytest.mark.parametrize("profile", ["memory", "bytes"])
@pytest.mark.parametrize("way", ["rondel", "factory"])
def test_random_operations_end_by_no_signal(way, profile):
    done, wrong = operations(way, profile, RUNS or 40, 300)
    assert done.returncode >= 0, f"signal {-done.returncode} after:\n{done.stdout}\n{done.stderr}"
    assert (wrong, done.returncode) == ([], 0), done.stdout + done.stderr
