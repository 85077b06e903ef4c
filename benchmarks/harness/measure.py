"""One measurement: fresh processes, each on a core of its own, and figures that were checked by those who made them.

The server (or the program of an in-process case) runs on one core and the load generator on another. The load generator
reads the server's CPU clock; this process only starts, reads memory from /proc, and ends what it started.
"""

import ctypes
import json
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import external
from .cases import Case, Client, Echo, Idle, Import, InProcess, Waiting, Web
from .loops import NATIVE, Contenders

PR_SET_PDEATHSIG = 1
#: Seconds a program may take beyond the time it was told to.
PATIENCE = 60.0

_libc = ctypes.CDLL(None, use_errno=True)


class MeasurementError(Exception):
    """A measurement that gave no figures, or figures that must not be trusted."""


@dataclass(frozen=True)
class Settings:
    """How every measurement of a run is made."""

    seconds: float
    warm_up: float
    #: Core of the measured process and core of the load generator; None where pinning is not
    #: possible.
    server_cpu: int | None
    load_cpu: int | None


Figures = dict[str, float]


def measure(contenders: Contenders, settings: Settings, case: Case, loop: str) -> Figures:
    """Runs `case` once on `loop`."""
    match case.workload:
        case InProcess() as workload:
            return _in_process(contenders, settings, workload, loop)
        case Import():
            return _import(contenders, settings, loop)
        case Echo() as workload:
            return _echo(contenders, settings, workload, loop)
        case Idle() as workload:
            return _idle(contenders, settings, workload, loop)
        case Waiting() as workload:
            return _waiting(contenders, settings, workload, loop)
        case Web() as workload:
            return _web(contenders, settings, workload, loop)
        case Client() as workload:
            return _client(contenders, settings, workload, loop)


def _in_process(contenders: Contenders, settings: Settings, workload: InProcess, loop: str) -> Figures:
    arguments = ["--seconds", str(settings.seconds)]
    if loop in NATIVE:
        command = contenders.command(loop, workload.program, *arguments)
    else:
        form = ["--form", workload.form, "--case", workload.program]
        command = contenders.command(loop, "in_process", *form, *arguments)
    with _running(command, settings.server_cpu) as program:
        figures = program.read_line(settings.seconds * 4 + PATIENCE)
        figures["peak_rss"] = program.peak_rss()
        program.finish()
    return _per_operation(figures)


def _import(contenders: Contenders, settings: Settings, loop: str) -> Figures:
    command = contenders.command(loop, "importing", "--seconds", str(settings.seconds))
    with _running(command, settings.server_cpu) as program:
        figures = program.read_line(settings.seconds + PATIENCE)
        figures["peak_rss"] = program.peak_rss()
        program.finish()
    return _per_operation(figures)


def _echo(contenders: Contenders, settings: Settings, workload: Echo, loop: str) -> Figures:
    with _server(contenders, settings, workload.server, loop, workload.tls) as (server, port):
        return _under_load(contenders, settings, workload, server, port)


def _web(contenders: Contenders, settings: Settings, workload: Web, loop: str) -> Figures:
    options = ["--form", "loop", "--server", workload.server, "--size", str(workload.size)]
    if workload.tls:
        options.append("--tls")
    with _serving(contenders.command(loop, "web_server", *options), settings) as (server, port):
        return _under_load(contenders, settings, workload, server, port)


def _under_load(
    contenders: Contenders, settings: Settings, workload: Echo | Web, server: "Process", port: int
) -> Figures:
    load = [
        *_load(contenders, workload.load, port, workload.connections, workload.size),
        *("--copies", str(workload.copies)),
        *("--warmup", str(settings.warm_up), "--seconds", str(settings.seconds)),
        *("--server-pid", str(server.pid)),
    ]
    if workload.tls:
        load += ["--tls", "1"]
    with _running(load, settings.load_cpu) as generator:
        figures = generator.read_line(settings.seconds + settings.warm_up + PATIENCE)
        figures["peak_rss"] = server.peak_rss()
        # The server goes first: thousands of connections closed by the client would be work for
        # nothing.
        server.kill()
        generator.finish()
    return _per_operation(figures)


def _client(contenders: Contenders, settings: Settings, workload: Client, loop: str) -> Figures:
    port = external.port_of(workload.server, settings.load_cpu)
    options = ["--form", "loop", "--case", workload.program, "--port", str(port), "--seconds", str(settings.seconds)]
    with _running(contenders.command(loop, "clients", *options), settings.server_cpu) as program:
        figures = program.read_line(settings.seconds * 4 + PATIENCE)
        figures["peak_rss"] = program.peak_rss()
        program.finish()
    return _per_operation(figures)


def _idle(contenders: Contenders, settings: Settings, workload: Idle, loop: str) -> Figures:
    with _server(contenders, settings, workload.server, loop, workload.tls) as (server, port):
        before = server.memory()
        load = _load(contenders, "idle", port, workload.connections, 64)
        if workload.tls:
            load += ["--tls", "1"]
        with _running(load, settings.load_cpu) as generator:
            opened = generator.read_line(PATIENCE)
            if opened.get("connections") != workload.connections:
                raise MeasurementError(f"only {opened} of {workload.connections} connections")
            after = server.memory()
            peak = server.peak_rss()
            generator.close_input()
            alive = generator.read_line(PATIENCE)
            if alive.get("alive") != workload.connections:
                raise MeasurementError(f"only {alive} connections were alive at the end")
            server.kill()
            generator.finish()
    return {
        "rss_each": (after["Rss"] - before["Rss"]) / workload.connections,
        "pss_each": (after["Pss"] - before["Pss"]) / workload.connections,
        "peak_rss": peak,
    }


def _waiting(contenders: Contenders, settings: Settings, workload: Waiting, loop: str) -> Figures:
    arguments = ["--form", "module", "--on", workload.on, "--tasks", str(workload.tasks)]
    with _running(contenders.command(loop, "waiting", *arguments), settings.server_cpu) as program:
        figures = program.read_line(PATIENCE)
        figures["peak_rss"] = program.peak_rss()
        program.finish()
    return figures


def _load(contenders: Contenders, mode: str, port: int, connections: int, size: int) -> list[str]:
    numbers = ["--port", str(port), "--connections", str(connections), "--size", str(size)]
    return [contenders.load_generator, mode, *numbers]


def _per_operation(figures: Figures) -> Figures:
    operations = figures["operations"]
    if operations <= 0:
        raise MeasurementError("no operation was completed in the time given")
    for name in ("cpu", "user", "system"):
        figures[f"{name}_us"] = figures.pop(name) * 1e6 / operations
    figures["per_second"] = operations / figures["seconds"]
    if "load_cpu" in figures:
        figures["load_busy"] = figures.pop("load_cpu") / figures["seconds"]
    return figures


@contextmanager
def _server(
    contenders: Contenders, settings: Settings, kind: str, loop: str, tls: bool = False
) -> Iterator[tuple["Process", int]]:
    if loop in NATIVE:
        command = contenders.command(loop, "echo")
    else:
        # In its drop-in form: the same program, with `asyncio` bound to the loop's module if it has
        # one.
        command = contenders.command(loop, "echo_server", "--form", "module", "--server", kind)
        if tls:
            command.append("--tls")
    with _serving(command, settings) as serving:
        yield serving


@contextmanager
def _serving(command: list[str], settings: Settings) -> Iterator[tuple["Process", int]]:
    with _running(command, settings.server_cpu) as server:
        port = int(server.read_line(PATIENCE)["port"])
        try:
            yield server, port
        except MeasurementError as error:
            if server.ended():
                raise MeasurementError(f"{error}; the server: {server.failure()}") from None
            raise


class Process:
    """A program of ours that talks JSON, a line at a time."""

    def __init__(self, command: list[str], cpu: int | None) -> None:
        self._name = Path(command[0]).name
        # Closed by `dispose`, which also ends the process that writes to it.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._unread = b""

        def prepare() -> None:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            # A killed harness leaves no server behind.
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            preexec_fn=prepare,
        )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def read_line(self, timeout: float) -> dict[str, Any]:
        """The next line of JSON; an error when none comes within `timeout` seconds."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            if not select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise MeasurementError(f"{self._name}: no answer within {timeout:.0f} s")
            data = os.read(pipe, 65536)
            if not data:
                self._process.wait()
                raise MeasurementError(self.failure())
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            answer: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            raise MeasurementError(f"{self._name}: unexpected output {line!r}") from None
        return answer

    def memory(self) -> dict[str, int]:
        """Bytes by name (Rss, Pss, …) as the kernel sums them up over all mappings of the process."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return {name: int(kib) * 1024 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", text)}

    def peak_rss(self) -> int:
        """The largest resident memory so far, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        if found is None:
            raise MeasurementError(f"{self._name} ended before its memory was read")
        return int(found[1]) * 1024

    def close_input(self) -> None:
        """Lets the program end, or go on where it waits for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def finish(self) -> None:
        """Waits for the program's end; it has to be a good one."""
        self.close_input()
        if self._process.wait(PATIENCE) != 0:
            raise MeasurementError(self.failure())

    def kill(self) -> None:
        """Ends a server. One that has ended by itself fails the measurement."""
        if self._process.poll() is not None:
            raise MeasurementError(self.failure())
        self._process.kill()
        self._process.wait()

    def dispose(self) -> None:
        """Leaves nothing behind, whatever happened."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            pipe.close()

    def ended(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process.poll() not in (None, -signal.SIGKILL)

    def failure(self) -> str:
        """How the process ended, and the last line it wrote to standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        status = self._process.returncode
        end = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return f"{self._name}: {end}" + (f": {lines[-1]}" if lines else "")


@contextmanager
def _running(command: list[str], cpu: int | None) -> Iterator[Process]:
    process = Process(command, cpu)
    try:
        yield process
    finally:
        process.dispose()
