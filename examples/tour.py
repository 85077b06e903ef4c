"""The tour of `make run`: runs the programs of this folder on Rondel, and explains their output.

Every line that a program prints must be the one described here, so the tour is also a check. The
programs run unmodified by `python -m rondel FILE`. Then their Rust versions run, from
crates/rondel/examples, if cargo is installed.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PORT = 8888

# What each program prints: (a pattern for the line, what the line shows).
Line = tuple[str, str]

NOT_AWAITED: Line = (
    r".*RuntimeWarning: coroutine 'my_coroutine' was never awaited",
    "Python's own warning: nobody ever ran it",
)
COROUTINE_OBJECT: list[Line] = [
    (
        r"<coroutine object my_coroutine at 0x[0-9a-f]+>",
        "the call made an object and ran nothing of it; `await` would have",
    ),
    NOT_AWAITED,
    (r"  print\(my_coroutine\(\)\)", "the line that made it"),
    (r"RuntimeWarning: Enable tracemalloc.*", "Python's hint on how to learn more"),
]
SAY_AFTER_TASKS: list[Line] = [
    ("hello", "printed after 1 second by the first task"),
    ("world", "printed after 2 seconds by the second, which waited at the same time"),
    ("took 2 seconds", "by the loop's clock; one after the other would be 3"),
]
SAY_AFTER_GATHER: list[Line] = [
    ("hello", "gather made a task of each coroutine; the first is done"),
    ("world", "and the second"),
    (r"\['HELLO', 'WORLD'\]", "what they returned, in the order in which they were given"),
    ("took 2 seconds", "again 2, not 3"),
]
CRAWLER: list[Line] = [
    (
        "1000 pages, 1789000 bytes",
        "1,000 connections open at once to a server in the same process, each read to its end",
    ),
]
SEVERAL_CORES: list[Line] = [
    (r"1 process: \d+ answers a second", "each answer is half a millisecond of work: about what one core can do"),
    (
        r"\d+ processes: \d+ answers a second, .* times as many",
        "a process for each core, on the same port; the client needs some, too",
    )
    if len(os.sched_getaffinity(0)) > 1
    else (r"only one core is to be had here: .*", "where there are more, a process for each is measured as well"),
]
ADDRESS = r"\('127\.0\.0\.1', \d+\)"
ECHO_SERVER: list[Line] = [
    (
        rf"serving on \('127\.0\.0\.1', {PORT}\)",
        "server.sockets[0].getsockname(), once start_server() has returned",
    ),
    (rf"received b'Hello, World!' from {ADDRESS}", "read(100) returned what echo_client.py sent"),
    (rf"{ADDRESS} is done", "the client said that it sends no more: read() gave b'' and the handler closed"),
    (rf"received b'hi from a plain socket\\n' from {ADDRESS}", "any client will do: this was a plain socket, like nc"),
    (rf"{ADDRESS} is done", "it has gone as well"),
]
ECHO_CLIENT: list[Line] = [
    ("sent     'Hello, World!'", "write() and drain()"),
    ("received 'Hello, World!'", "read() to the end of the stream, which the server closed after the echo"),
]
CTRL_C: list[Line] = [
    ("Traceback .*", "Ctrl-C: the server's main task was cancelled, then asyncio.run() raised, as asyncio does"),
    (r"KeyboardInterrupt", "the interpreter's way to end then"),
]


@dataclass
class Failed(Exception):
    """Raised if a program of the tour does not do what the tour says."""

    what: str


def heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}\n{'-' * len(text)}", flush=True)


def command_line(command: list[str]) -> None:
    shown = ["python" if part == sys.executable else part.removeprefix(f"{ROOT}/") for part in command]
    print("  $ " + " ".join(shown), flush=True)


def explain(line: str, expected: Line) -> None:
    pattern, meaning = expected
    if not re.fullmatch(pattern, line):
        raise Failed(f"expected a line like {pattern!r}, got {line!r}")
    line = re.sub(r"^.*/(examples/)", r"\1", line)
    print(f"    {line}\n        ^ {meaning}", flush=True)


def run(command: list[str], expected: list[Line]) -> None:
    """Run a program and explain its lines, those of stdout first."""
    command_line(command)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    if done.returncode != 0:
        raise Failed(f"exit status {done.returncode}:\n{done.stdout}{done.stderr}")
    for line, what in zip(lines, expected, strict=False):
        explain(line, what)
    if len(lines) != len(expected):
        raise Failed(f"{len(lines)} lines, {len(expected)} expected:\n{done.stdout}{done.stderr}")


def plain_client(message: bytes) -> bytes:
    """Do what `nc` does: send, end the stream, read to the end."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1000), b""))


def echo(server_command: list[str], *, client: list[str] | None, ctrl_c: list[Line]) -> None:
    """Run the echo server, the echo client, a plain client, and Ctrl-C."""
    command_line([*server_command, "&"])
    with subprocess.Popen(
        server_command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stderr is not None
            steps = iter(ECHO_SERVER)
            first = server.stdout.readline().rstrip("\n")
            if not first:
                raise Failed(f"the server did not start (is port {PORT} free?):\n{server.stderr.read()}")
            explain(first, next(steps))
            if client is not None:
                run(client, ECHO_CLIENT)
            else:
                plain_client(b"Hello, World!")
            for _ in range(2):
                explain(server.stdout.readline().rstrip("\n"), next(steps))
            message = b"hi from a plain socket\n"
            print("  $ echo 'hi from a plain socket' | nc -N 127.0.0.1 8888")
            if (answer := plain_client(message)) != message:
                raise Failed(f"the echo of {message!r} was {answer!r}")
            print(f"    {answer.decode().rstrip()}\n        ^ the echo, then the end of the stream")
            for step in steps:
                explain(server.stdout.readline().rstrip("\n"), step)
            print("  $ ^C", flush=True)
            server.send_signal(signal.SIGINT)
            _, errors = server.communicate(timeout=30)
            for step in ctrl_c:
                line = next((line for line in errors.splitlines() if re.fullmatch(step[0], line)), "")
                explain(line, step)
        finally:
            if server.poll() is None:
                server.kill()


def python_programs() -> None:
    def rondel(name: str) -> list[str]:
        return [sys.executable, "-m", "rondel", f"examples/{name}.py"]

    heading("1. A coroutine that is called but not awaited")
    run(rondel("coroutine_object"), COROUTINE_OBJECT)
    heading("2. Two tasks that wait at the same time")
    run(rondel("say_after_tasks"), SAY_AFTER_TASKS)
    heading("3. The same with gather")
    run(rondel("say_after_gather"), SAY_AFTER_GATHER)
    heading("4. An echo server, its clients, and Ctrl-C")
    echo(rondel("echo_server"), client=rondel("echo_client"), ctrl_c=CTRL_C)
    heading("5. A crawler with 1,000 connections")
    run(rondel("crawler"), CRAWLER)
    heading("6. A server on one core, and on all of them")
    run(rondel("several_cores"), SEVERAL_CORES)


def rust_programs() -> None:
    heading("7. The same programs in Rust, on the same engine, with no Python in the process")
    names = ["coroutine_object", "say_after_tasks", "say_after_gather", "echo_server", "crawler"]
    cargo = shutil.which("cargo")
    if cargo is None:
        print("  skipped: there is no cargo on the PATH")
        return
    for name in names:
        if not (ROOT / "crates/rondel/examples" / f"{name}.rs").exists():
            print(f"  skipped: crates/rondel/examples/{name}.rs is not there")
            continue
        build = [cargo, "build", "--quiet", "--release", "--package", "rondel", "--example", name]
        if subprocess.run(build, cwd=ROOT, check=False).returncode != 0:
            raise Failed(f"cargo could not build the example {name}")
        command = ["cargo", "run", "--quiet", "--release", "--package", "rondel", "--example", name]
        print(f"\n  crates/rondel/examples/{name}.rs")
        if name == "echo_server":
            rust_echo(command)
            continue
        command_line(command)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        print("".join(f"    {line}\n" for line in (done.stdout + done.stderr).splitlines()), end="")
        if done.returncode != 0:
            raise Failed(f"exit status {done.returncode}")


def rust_echo(command: list[str]) -> None:
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/examples/echo_server"
    command_line([*command, "&"])
    with subprocess.Popen([str(target)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            print("    " + server.stdout.readline().rstrip("\n"))
            message = b"hi from a plain socket\n"
            if (answer := plain_client(message)) != message:
                raise Failed(f"the echo of {message!r} was {answer!r}")
            print(f"    {answer.decode().rstrip()}\n        ^ the echo that a plain client got")
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def main() -> None:
    import rondel

    print(f"Rondel {rondel.__version__} on Python {sys.version.split()[0]}")
    print("Each program is shown as it is run, each line it prints with what that line shows.")
    try:
        python_programs()
        rust_programs()
    except Failed as failed:
        sys.exit(f"\nThe tour stops here: {failed.what}")
    python = Path(sys.executable)
    shown = python.relative_to(ROOT) if python.is_relative_to(ROOT) else python
    print(f"\nThat was the tour. Change a program and run it: {shown} -m rondel examples/crawler.py")


if __name__ == "__main__":
    main()
