"""Starts programs by their command lines, in child processes, and keeps their output."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"
#: The time limit in seconds for a program to start or to end on a busy machine.
PATIENCE = 30.0
#: The beginning of commands with `python -m rondel`.
PYTHON = (sys.executable,)
RONDEL = (sys.executable, "-m", "rondel")


def free_port() -> int:
    """Return a free port below the kernel's range for clients."""
    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class Program:
    """A started program."""

    def __init__(self, command: tuple[str, ...], output: Path, folder: Path, environment: dict[str, str]) -> None:
        self.command = command
        self._output = output
        with output.open("wb") as file:
            # In a new session, so that its workers can be ended with it.
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_until(self, done: Callable[[], object], what: str) -> None:
        """Wait for a condition while the program runs."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert self._process.poll() is None, f"{self} ended with {self._process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"{self}: {what} within {PATIENCE} s:\n{self.output}"
            time.sleep(0.02)

    def wait_for_port(self, port: int) -> None:
        self.wait_until(lambda: accepts(port), f"no server on port {port}")

    def wait_for(self, text: str) -> None:
        """Wait until the program has printed a text."""
        self.wait_until(lambda: text in self.output, f"did not say {text!r}")

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Ask the program to end; return its exit status."""
        self._process.send_signal(with_signal)
        return self.wait()

    def wait(self) -> int:
        """Wait until the program ends by itself; return its exit status."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not end within {PATIENCE} s:\n{self.output}") from None

    def dispose(self) -> None:
        """Kill the program and its workers."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    def __str__(self) -> str:
        return " ".join(self.command)


def accepts(port: int) -> bool:
    """Whether a server listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Programs:
    """The programs of one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Program] = []

    def start(self, *command: object, folder: Path = APPS, **variables: str) -> Program:
        """Start a command, in the folder of the test applications."""
        output = self._folder / f"output-{len(self._started)}"
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | variables
        program = Program(tuple(map(str, command)), output, folder, environment)
        self._started.append(program)
        return program

    def serve(self, port: int, *command: object, **variables: str) -> Program:
        """Start a server and wait until it accepts connections."""
        program = self.start(*command, **variables)
        program.wait_for_port(port)
        return program

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for program in self._started:
            program.dispose()
            # pytest shows this when the test fails.
            print(f"--- {program}\n{program.output}")
