"""Runs a program in a child process, on the implementation under test."""

import subprocess
import sys
import textwrap

# A prelude for the program: it binds the implementation to the name asyncio.
LOOPS = {
    "asyncio": "import asyncio\n",
    "rondel": "import rondel as asyncio\n",
    "factory": """
import asyncio, rondel
def run(main):
    with asyncio.Runner(loop_factory=rondel.new_event_loop) as runner:
        return runner.run(main)
asyncio.run, asyncio.new_event_loop = run, rondel.new_event_loop
""",
}


def child(impl, program, *arguments, **options):
    text = LOOPS[impl.name] + textwrap.dedent(program)
    return subprocess.Popen(
        [sys.executable, *arguments, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process, timeout=30):
    try:
        return process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def output(impl, program, *arguments):
    """Return the program's output.

    It must exit with status 0 and print nothing to standard error.
    """
    process = child(impl, program, *arguments)
    out, err = finish(process)
    assert (err, process.returncode) == ("", 0)
    return out
