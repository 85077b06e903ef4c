"""A panic in Rust becomes a Python exception. The process goes on, and so does the loop if it can.

The installed module has no panic to test with. `make test-panic` builds another one, equally
optimised, with the feature `panic-probe`, and passes its folder with `--panic-probe`.
"""

import os
import subprocess
import sys

import pytest

CALLED = """\
import gc, rondel
from rondel import _rondel

try:
    _rondel._panic("on purpose")
except SystemError as error:
    print("raised:", error)

async def main():
    loop = rondel.get_running_loop()
    loop.set_exception_handler(lambda loop, context: print("handler:", repr(context["exception"])))
    loop.call_soon(_rondel._panic, "in a callback")
    await rondel.sleep(0)
    try:
        _rondel._panic("in a task")
    except SystemError:
        return "goes on"

print(rondel.run(main()))
"""

IN_THE_LOOP = """\
import rondel
from rondel import _rondel

async def main():
    _rondel._panic_in_next_step()
    await rondel.sleep(0)
    print("not reached")

loop = rondel.new_event_loop()
task = loop.create_task(main())
try:
    loop.run_until_complete(task)
except SystemError as error:
    print("raised:", error)
print("running:", loop.is_running(), rondel._get_running_loop(), rondel.current_task(loop))
print("afterwards:", loop.run_until_complete(rondel.sleep(0, "it runs again")))
task.cancel()
loop.close()
print("closed")
"""


@pytest.fixture
def python_that_can_panic(request):
    """Run a program with the module that panics; return its output and exit status."""
    folder = request.config.getoption("--panic-probe")
    if not folder:
        pytest.skip("make test-panic builds the module that this needs")

    def run(program: str) -> tuple[str, str, int]:
        environment = os.environ | {"PYTHONPATH": folder, "RUST_BACKTRACE": "0"}
        command = [sys.executable, "-W", "error", "-c", program]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        return process.stdout, process.stderr, process.returncode

    return run


def test_a_panic_below_a_call_is_an_exception(python_that_can_panic):
    output, errors, status = python_that_can_panic(CALLED)
    assert output.splitlines() == [
        "raised: rondel: internal error (a Rust panic): on purpose",
        "handler: SystemError('rondel: internal error (a Rust panic): in a callback')",
        "goes on",
    ], errors
    assert status == 0
    assert errors.count("panicked at") == 3  # Rust prints the location, for a bug report


def test_a_panic_of_the_loop_itself_ends_the_run(python_that_can_panic):
    output, errors, status = python_that_can_panic(IN_THE_LOOP)
    assert output.splitlines() == [
        "raised: rondel: internal error (a Rust panic): in a step",
        "running: False None None",
        "afterwards: it runs again",
        "closed",
    ], errors
    assert status == 0


def test_the_installed_module_has_no_panics_to_offer():
    from rondel import _rondel

    assert [name for name in vars(_rondel) if "panic" in name] == []
