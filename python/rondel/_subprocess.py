"""``create_subprocess_exec`` and ``create_subprocess_shell``, with native readers and writers."""

from __future__ import annotations

import asyncio
from asyncio import subprocess
from asyncio.subprocess import Process
from typing import Any

from ._rondel import StreamReader, StreamWriter

__all__ = ("create_subprocess_exec", "create_subprocess_shell")

_DEFAULT_LIMIT = 2**16


class SubprocessStreamProtocol(subprocess.SubprocessStreamProtocol):
    """Feeds the output of a child process to native readers."""

    _limit: int
    _loop: asyncio.AbstractEventLoop
    _pipe_fds: list[int]

    def connection_made(self, transport: Any) -> None:
        """Set up the streams: the child runs, and its pipes are connected."""
        self._transport = transport
        self.stdout = self._reader(1)
        self.stderr = self._reader(2)
        stdin: Any = transport.get_pipe_transport(0)
        if stdin is not None:
            self.stdin = StreamWriter(stdin, self, None, self._loop)

    def _reader(self, fd: int) -> StreamReader | None:
        pipe = self._transport.get_pipe_transport(fd)
        if pipe is None:
            return None
        reader = StreamReader(limit=self._limit, loop=self._loop)
        reader.set_transport(pipe)
        self._pipe_fds.append(fd)
        return reader


def _protocols(limit: int) -> tuple[Any, Any]:
    loop = asyncio.get_running_loop()
    return loop, lambda: SubprocessStreamProtocol(limit=limit, loop=loop)


async def create_subprocess_exec(
    program: Any,
    *args: Any,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = _DEFAULT_LIMIT,
    **kwds: Any,
) -> Process:
    """Start a program; return the process.

    ``limit`` is the maximum length of a line in bytes; twice as much is buffered. All other
    arguments are those of ``loop.subprocess_exec``, which accepts `subprocess.Popen`'s.
    """
    loop, factory = _protocols(limit)
    transport, protocol = await loop.subprocess_exec(
        factory, program, *args, stdin=stdin, stdout=stdout, stderr=stderr, **kwds
    )
    return Process(transport, protocol, loop)


async def create_subprocess_shell(
    cmd: str | bytes,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = _DEFAULT_LIMIT,
    **kwds: Any,
) -> Process:
    """Run a command in a shell; return the process.

    For the arguments see ``create_subprocess_exec``.
    """
    loop, factory = _protocols(limit)
    transport, protocol = await loop.subprocess_shell(factory, cmd, stdin=stdin, stdout=stdout, stderr=stderr, **kwds)
    return Process(transport, protocol, loop)
