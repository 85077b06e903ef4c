"""Programs that run in a process of their own, on the implementation under test."""

import subprocess
import sys
import textwrap

# What stands before the program: it finds the implementation under asyncio's name.
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
    """What the program prints; it has to end well and to say nothing on its standard error."""
    process = child(impl, program, *arguments)
    out, err = finish(process)
    assert (err, process.returncode) == ("", 0)
    return out
