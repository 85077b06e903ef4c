"""What importing costs: `python importing.py --loop NAME --seconds S`.

Starts fresh interpreters that import asyncio and the loop's module, and nothing else, one after the other until the time is
up, and prints the CPU time they took as a line of JSON. An operation is a whole start, the interpreter's own included: what
counts is the difference to the figure of asyncio.
"""

import argparse
import json
import os
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    program = "import asyncio" if options.loop == "asyncio" else f"import asyncio, {options.loop}"
    # Compiled files are written by the first start, which is not counted, and read by the others.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start(program, environment)

    user = system = 0.0
    operations = 0
    begin = time.perf_counter()
    while operations < 5 or time.perf_counter() - begin < options.seconds:
        spent = start(program, environment)
        user += spent[0]
        system += spent[1]
        operations += 1
    seconds = time.perf_counter() - begin
    figures = {"operations": operations, "seconds": seconds, "cpu": user + system, "user": user, "system": system}
    print(json.dumps(figures), flush=True)
    sys.stdin.read()  # its memory is looked at before it ends


def start(program: str, environment: dict[str, str]) -> tuple[float, float]:
    """One interpreter, from its start to its end; returns its user and system CPU seconds."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", program], environment)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        raise SystemExit(f"{program!r} failed with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime, usage.ru_stime


if __name__ == "__main__":
    main()
