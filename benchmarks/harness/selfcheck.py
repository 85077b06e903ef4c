"""Checks the harness itself: that it sees through servers that do the work wrong, and that every case runs.

A benchmark is only as good as what it refuses. Each broken server here is caught by the real load generator, and each
case runs once, shortly, on stock asyncio and on the Rust contenders that are built.
"""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from . import external
from .cases import CASES, Case, Echo, InProcess
from .loops import Contenders
from .measure import Figures, MeasurementError, Settings, measure

#: An echo server on threads, and ways of being wrong: what it sends back for what it received.
BROKEN_SERVER = """
import json, socket, sys, threading
wrong = sys.argv[1]
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
first = []
def serve(client):
    replies = 0
    while data := client.recv(65536):
        replies += 1
        late = replies > 3
        first.append(data)
        if wrong == "corrupts" and late: data = data[:-1] + bytes([data[-1] ^ 1])
        if wrong == "repeats-itself" and late: data = first[0]
        if wrong == "adds-a-byte" and late: data += b"x"
        if wrong == "loses-a-byte" and late: data = data[1:]
        if wrong == "hangs-up" and late: return client.close()
        client.sendall(data)
while True:
    client, _ = listener.accept()
    threading.Thread(target=serve, args=(client,), daemon=True).start()
"""

#: Way of being wrong, and what the load generator has to say about it; None is a server that is
#: right.
BROKEN = {
    "nothing": None,
    "corrupts": "is not what was sent",
    "repeats-itself": "is not what was sent",
    "adds-a-byte": "more than were asked for",
    "loses-a-byte": "is not what was sent",
    "hangs-up": "closed by the server",
}


def run(contenders: Contenders, settings: Settings) -> int:
    """Runs all checks, says what happened, and returns the exit status."""
    failures = 0
    for wrong in BROKEN:
        failures += _say(f"a server that is wrong in {wrong}", check_broken(contenders, wrong))
    short = replace(settings, seconds=0.05, warm_up=0.02)
    for case in CASES:
        if reason := external.missing(case, contenders.python):
            print(f"SKIPPED: {case.name}: {reason}", flush=True)
            continue
        for loop in case.loops:
            if loop in contenders.versions and loop in ("asyncio", "floor", "tokio", "rondel-rust"):
                failures += _say(f"{case.name} on {loop}", check_case(contenders, short, case, loop))
    print(f"self-check: {failures} failures" if failures else "self-check: all is well")
    return 1 if failures else 0


def check_broken(contenders: Contenders, wrong: str) -> str | None:
    """What the harness does wrong about a server that is `wrong`; None when it does right."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "server.py"
        program.write_text(BROKEN_SERVER)
        server = subprocess.Popen(
            [sys.executable, str(program), wrong],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout is not None
            port = server.stdout.readline().partition(":")[2].strip(" }\n")
            load = [contenders.load_generator, "echo", "--port", port, "--connections", "3"]
            load += ["--size", "64", "--warmup", "0.02", "--seconds", "0.1"]
            done = subprocess.run(load, capture_output=True, text=True, timeout=60, check=False)
        finally:
            server.kill()
            server.communicate()
    expected = BROKEN[wrong]
    if expected is None:
        return None if done.returncode == 0 and done.stdout else f"refused: {done.stderr.strip()}"
    if done.returncode == 0 or done.stdout:
        return f"not noticed: {done.stdout.strip()}"
    return None if expected in done.stderr else f"noticed as: {done.stderr.strip()}"


def check_case(contenders: Contenders, short: Settings, case: Case, loop: str) -> str | None:
    """What is wrong with `case` on `loop`; None when it gives figures that can be."""
    try:
        figures = measure(contenders, short, case, loop)
    except MeasurementError as error:
        return str(error)
    return implausible(case, figures)


def implausible(case: Case, figures: Figures) -> str | None:
    """Why `figures` cannot be right; None when they can."""
    if case.in_memory:
        return None if figures["rss_each"] > 0 else "what waits takes no memory"
    if figures["operations"] <= 0 or figures["cpu_us"] <= 0:
        return "no work was done"
    parts = figures["user_us"] + figures["system_us"]
    if not 0.5 < parts / figures["cpu_us"] < 1.5:
        return f"user and system are {parts:.3f} µs of {figures['cpu_us']:.3f}"
    if isinstance(case.workload, Echo) and not 0 < figures["p50_us"] <= figures["p99_us"]:
        return "latencies are out of order"
    if isinstance(case.workload, InProcess) and "p50_us" in figures:
        return "latencies without a load"
    return None


def _say(what: str, problem: str | None) -> int:
    print(f"{'FAILED' if problem else 'ok'}: {what}{': ' + problem if problem else ''}", flush=True)
    return 1 if problem else 0
