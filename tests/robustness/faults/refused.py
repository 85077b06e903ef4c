"""Tests the loop while the kernel refuses a system call: a program for `test_refused_calls.py`.

python refused.py asyncio|rondel|factory

For each system call and errno, a forked child installs a seccomp filter that makes the call fail
with it. Then it uses the loop in the ways that may need the call. The program prints a JSON object:
call, errno, and "ok" or the failure.
"""

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

ERRORS = ["ENOSYS", "EPERM", "EACCES", "EINVAL"]
# The system call numbers of x86-64.
NUMBERS = {
    "accept4": 288,
    "clone3": 435,
    "close_range": 436,
    "copy_file_range": 326,
    "dup3": 292,
    "epoll_create1": 291,
    "epoll_pwait": 281,
    "epoll_pwait2": 441,
    "epoll_wait": 232,
    "eventfd2": 290,
    "getpeername": 52,
    "getrandom": 318,
    "getsockname": 51,
    "getsockopt": 55,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "io_uring_setup": 425,
    "membarrier": 324,
    "pidfd_open": 434,
    "pipe2": 293,
    "poll": 7,
    "prctl": 157,
    "prlimit64": 302,
    "recvmmsg": 299,
    "rseq": 334,
    "sched_getaffinity": 204,
    "sendfile": 40,
    "sendmmsg": 307,
    "sendmsg": 46,
    "setsockopt": 54,
    "shutdown": 48,
    "signalfd4": 289,
    "statx": 332,
    "timerfd_create": 283,
    "vfork": 58,
    "waitid": 247,
    "writev": 20,
}


def refuse(number: int, error: int) -> bool:
    """Make a system call fail with `error` in this thread and its children.

    Return False if that is impossible.
    """
    load, jump_if_equal, give = 0x20, 0x15, 0x06
    allow, answer = 0x7FFF0000, 0x00050000
    instructions = [(load, 0, 0, 0), (jump_if_equal, 0, 1, number), (give, 0, 0, answer | error), (give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    program = Program(len(instructions), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None)
    no_new_privileges, set_seccomp, filtered = 38, 22, 2
    return libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0 and (
        libc.prctl(set_seccomp, filtered, ctypes.byref(program), 0, 0) == 0
    )


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, count: int) -> None:
        self.left = count
        self.errors: list[str] = []
        self.all = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.left -= 1
        if not self.left:
            self.all.set_result(None)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(repr(exc))
        if not self.all.done():
            self.all.set_exception(exc)


async def streams(aio: ModuleType) -> None:
    """Six connections, accepted in one turn, and answered in one turn in several pieces."""

    async def answer(reader: Any, writer: Any) -> None:
        while line := await reader.readline():
            await gate.wait()
            for part in (line, b"." * 2000, b"\n"):
                writer.write(part)
            if not writer.is_closing():
                await writer.drain()
        writer.close()

    gate = aio.Event()
    server = await aio.start_server(answer, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = await aio.gather(*(aio.open_connection(*address) for _ in range(6)))
    for round_number in range(2):
        for _, writer in clients:
            writer.writelines([b"%d" % round_number, b" hello", b"\n"])
        await aio.sleep(0)
        gate.set()
        for reader, _ in clients:
            assert await reader.readline() == b"%d hello\n" % round_number
            assert await reader.readline() == b"." * 2000 + b"\n"
    for reader, writer in clients:
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
    server.close()


async def datagrams(aio: ModuleType) -> None:
    """Several datagrams at a time, in both directions."""
    loop = aio.get_running_loop()
    here: Any = {"local_addr": ("127.0.0.1", 0)}
    server, at_server = await loop.create_datagram_endpoint(lambda: Datagrams(20), **here)
    client, at_client = await loop.create_datagram_endpoint(lambda: Datagrams(20), **here)
    for sender, receiver, there in ((client, at_server, server), (server, at_client, client)):
        for _ in range(20):
            sender.sendto(b"x", there.get_extra_info("sockname"))
        await receiver.all
    assert at_server.errors == at_client.errors == []
    client.close()
    server.close()


async def timers(aio: ModuleType) -> None:
    begin = time.monotonic()
    await aio.sleep(0.0015)
    assert time.monotonic() - begin + time.get_clock_info("monotonic").resolution >= 0.0015


async def threads(aio: ModuleType) -> None:
    loop = aio.get_running_loop()
    woken = loop.create_future()
    thread = threading.Timer(0.003, loop.call_soon_threadsafe, (woken.set_result, 1))
    thread.start()
    await woken
    assert await aio.to_thread(lambda: 2) == 2
    thread.join()


async def signals(aio: ModuleType) -> None:
    loop = aio.get_running_loop()
    came = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, came.set_result, None)
    os.kill(os.getpid(), signal.SIGUSR1)
    await came
    loop.remove_signal_handler(signal.SIGUSR1)


async def processes(aio: ModuleType) -> None:
    process = await aio.create_subprocess_exec("/bin/sh", "-c", "cat; exit 3", stdin=-1, stdout=-1)
    assert await process.communicate(b"in") == (b"in", None) and process.returncode == 3


async def pipes(aio: ModuleType) -> None:
    """More data than a pipe holds, in many pieces."""
    loop = aio.get_running_loop()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as out, os.fdopen(writing, "wb", 0) as into:
        transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, into)
        reader = aio.StreamReader()
        await loop.connect_read_pipe(lambda: aio.StreamReaderProtocol(reader), out)
        for _ in range(30):
            transport.write(b"x" * 9000)
        transport.write_eof()
        assert await reader.read() == b"x" * 270_000


async def files(aio: ModuleType) -> None:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    with tempfile.TemporaryFile() as file:
        file.write(b"content")
        file.seek(0)
        assert await aio.get_running_loop().sock_sendfile(one, file) == 7
    assert other.recv(100) == b"content"
    one.close()
    other.close()


async def names(aio: ModuleType) -> None:
    assert await aio.get_running_loop().getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)


async def forks(aio: ModuleType) -> None:
    """A child that goes on running the parent's loop."""
    loop = aio.get_running_loop()
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        return
    with contextlib.suppress(BaseException):
        one, other = socket.socketpair()
        loop.add_reader(one, print)
        loop.remove_reader(one)
        other.close()
        os._exit(0)
    os._exit(1)


USES: dict[str, list[Callable[[ModuleType], Coroutine[Any, Any, None]]]] = {
    "accept4": [streams],
    "close_range": [processes],
    "copy_file_range": [files],
    "dup3": [forks, processes],
    "getpeername": [streams, datagrams],
    "getsockname": [streams, datagrams],
    "getsockopt": [streams, datagrams],
    "io_uring_enter": [streams],
    "io_uring_register": [streams],
    "io_uring_setup": [streams],
    "pidfd_open": [processes],
    "pipe2": [streams, signals],
    "poll": [streams],
    "recvmmsg": [datagrams],
    "sendfile": [files],
    "sendmmsg": [datagrams],
    "sendmsg": [streams],
    "setsockopt": [streams, datagrams],
    "shutdown": [streams],
    "vfork": [processes],
    "waitid": [processes],
    "writev": [pipes],
}
ALL = [forks, streams, datagrams, timers, signals, pipes, names, threads]


def use(call: str, aio: ModuleType, new_event_loop: Callable[[], asyncio.AbstractEventLoop]) -> str:
    problems: list[str] = []

    async def main() -> None:
        def note(_: object, context: dict[str, Any]) -> None:
            problems.append(f"{context.get('exception')!r}")
            if len(problems) > 100:
                raise SystemExit("one after the other")

        aio.get_running_loop().set_exception_handler(note)
        async with aio.timeout(5):
            for way in USES.get(call, ALL):
                await way(aio)

    begin = time.process_time()
    try:
        with aio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    except BaseException as error:
        problems.append(repr(error))
    if time.process_time() - begin > 2.5:
        problems.append("busy all the time")
    return "ok" if not problems else f"{len(problems)} problems, such as {problems[0]}"


def in_a_child(work: Callable[[], str]) -> str:
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            signal.alarm(20)
            os.write(writing, work().encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read().decode()
    status = os.waitpid(pid, 0)[1]
    return text or f"ended with status {status}"


def main() -> None:
    which = sys.argv[1]
    aio: ModuleType = asyncio
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop
    if which != "asyncio":
        import rondel

        new_event_loop = rondel.new_event_loop
        if which == "rondel":
            aio = rondel

    def under_a_filter(call: str, error: str) -> Callable[[], str]:
        def work() -> str:
            if not refuse(NUMBERS[call], getattr(errno, error)):
                return "no filters here"
            return use(call, aio, new_event_loop)

        return work

    calls = sys.argv[2:] or NUMBERS
    seen = {call: {error: in_a_child(under_a_filter(call, error)) for error in ERRORS} for call in calls}
    print(json.dumps(seen, indent=1))


main()
