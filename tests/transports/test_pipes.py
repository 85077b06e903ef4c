"""Pipe transports: pipes, FIFOs, terminals, sockets and devices; flow control, closing."""

import asyncio
import contextlib
import gc
import io
import os
import pty
import socket
import tty
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, Any]], Any]
MUCH = bytes(range(256)) * 2000  # more than a pipe holds


class Reading(asyncio.Protocol):
    transport: Any

    def __init__(self) -> None:
        self.data = bytearray()
        self.events: list[str] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._wanted: tuple[int, asyncio.Future[None]] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data
        if self._wanted is not None and len(self.data) >= self._wanted[0]:
            self._wanted[1].set_result(None)
            self._wanted = None

    def eof_received(self) -> None:
        self.events.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)

    async def wait(self, count: int) -> bytes:
        if len(self.data) < count:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._wanted = (count, future)
            await asyncio.wait_for(future, 10)
        return bytes(self.data)


class Writing(asyncio.BaseProtocol):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.resumed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.events.append("made")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)


def opened(file: str | int, mode: str) -> io.FileIO:
    return open(file, mode, 0)  # type: ignore[return-value]


def pipe() -> tuple[io.FileIO, io.FileIO]:
    reader, writer = os.pipe()
    return opened(reader, "rb"), opened(writer, "wb")


async def connect_reader(end: Any) -> tuple[Any, Reading]:
    transport, protocol = await asyncio.get_running_loop().connect_read_pipe(protocol_factory=Reading, pipe=end)
    return transport, protocol


async def connect_writer(end: Any) -> tuple[Any, Writing]:
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(protocol_factory=Writing, pipe=end)
    return transport, protocol


async def gone(protocol: Any) -> Exception | None:
    result: Exception | None = await asyncio.wait_for(protocol.lost, 10)
    await asyncio.sleep(0)
    return result


def test_bytes_go_through_and_the_end_follows(run: Run) -> None:
    async def main() -> None:
        reader, writer = pipe()
        reading, at_reader = await connect_reader(reader)
        writing, at_writer = await connect_writer(writer)
        for data in (b"one ", bytearray(b"two "), memoryview(b"three"), b""):
            writing.write(data)
        assert await at_reader.wait(13) == b"one two three"
        writing.close()
        assert writing.is_closing()
        assert await gone(at_writer) is None and await gone(at_reader) is None
        assert at_reader.events == ["made", "eof", "lost"] and at_writer.events == ["made", "lost"]
        assert reader.closed and writer.closed and reading.is_closing()

    run(main())


def test_more_than_a_pipe_holds(run: Run) -> None:
    async def main() -> None:
        reader, writer = pipe()
        writing, at_writer = await connect_writer(writer)
        writing.write(MUCH)
        writing.write(b"more")
        assert at_writer.events == ["made", "pause"]
        assert 0 < writing.get_write_buffer_size() < len(MUCH) + 4
        waiting = bytes(writing._buffer)
        assert (MUCH + b"more").endswith(waiting) and len(waiting) == writing.get_write_buffer_size()
        assert f"polling bufsize={len(waiting)}" in repr(writing)
        reading, at_reader = await connect_reader(reader)
        assert await at_reader.wait(len(MUCH) + 4) == MUCH + b"more"
        await asyncio.wait_for(at_writer.resumed.wait(), 10)
        assert at_writer.events == ["made", "pause", "resume"] and writing.get_write_buffer_size() == 0
        assert "idle bufsize=0" in repr(writing)
        writing.write_eof()
        await gone(at_writer)
        await gone(at_reader)

    run(main())


def test_closing_writes_what_waits(run: Run) -> None:
    async def main() -> None:
        reader, writer = pipe()
        writing, at_writer = await connect_writer(writer)
        writing.write(MUCH)
        writing.close()
        writing.write(b"in vain")
        await asyncio.sleep(0)
        assert not at_writer.lost.done() and not writer.closed
        _, at_reader = await connect_reader(reader)
        assert await gone(at_writer) is None
        assert await gone(at_reader) is None
        assert bytes(at_reader.data) == MUCH

    run(main())


def test_aborting_writes_nothing_more(run: Run) -> None:
    async def main() -> None:
        reader, writer = pipe()
        writing, at_writer = await connect_writer(writer)
        writing.write(MUCH)
        writing.abort()
        assert writing.get_write_buffer_size() == 0
        assert await gone(at_writer) is None
        with reader:
            assert len(reader.read()) < len(MUCH)

    run(main())


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("waiting", [False, True], ids=["idle", "waiting"])
def test_a_reader_that_goes_away_is_noticed(run: Run, kind: str, waiting: bool) -> None:
    async def main() -> None:
        reader: Any
        writer: Any
        reader, writer = pipe() if kind == "pipe" else socket.socketpair()
        writing, at_writer = await connect_writer(writer)
        if waiting:
            writing.write(MUCH)
            writing.write(MUCH)
        reader.close()
        error = await gone(at_writer)
        if not waiting:
            assert error is None
        else:
            assert isinstance(error, BrokenPipeError | ConnectionResetError)
        assert writing.is_closing()

    run(main())


def test_writing_to_a_reader_that_is_gone(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        reader, writer = pipe()
        writing, at_writer = await connect_writer(writer)
        reader.close()
        for _ in range(7):
            writing.write(b"x")
        assert isinstance(await gone(at_writer), BrokenPipeError)

    run(main())
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["pipe closed by peer or os.write(pipe, data) raised exception."] * 2


def test_what_write_refuses(run: Run) -> None:
    async def main() -> None:
        reader, writer = pipe()
        writing, at_writer = await connect_writer(writer)
        with pytest.raises(AssertionError, match="'text'"):
            writing.write("text")
        writing.writelines([b"a", b"b"])
        assert reader.read(2) == b"ab"
        assert writing.can_write_eof()
        writing.close()
        writing.close()
        await gone(at_writer)
        writing.close()
        reader.close()

    run(main())


def test_pausing_loses_nothing(run: Run) -> None:
    async def main() -> None:
        reader, writer = pipe()
        reading, at_reader = await connect_reader(reader)
        receive = at_reader.data_received

        def pause(data: bytes) -> None:
            receive(data)
            reading.pause_reading()

        at_reader.data_received = pause  # type: ignore[method-assign]
        for number in range(5):
            writer.write(b"%d" % number)
            assert await at_reader.wait(number + 1) == b"01234"[: number + 1]
            assert not reading.is_reading() and reading._paused
            reading.pause_reading()
            reading.resume_reading()
            reading.resume_reading()
            assert reading.is_reading()
        reading.pause_reading()
        writer.write(b"last")
        writer.close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert bytes(at_reader.data) == b"01234" and not at_reader.lost.done()
        reading.resume_reading()
        await at_reader.wait(9)
        reading.resume_reading()
        assert await gone(at_reader) is None

    run(main())


def test_closing_the_reading_end(run: Run) -> None:
    async def main() -> None:
        reader, writer = pipe()
        reading, at_reader = await connect_reader(reader)
        writer.write(b"x")
        reading.close()
        reading.close()
        assert await gone(at_reader) is None
        assert at_reader.events == ["made", "lost"] and at_reader.data == b""
        assert reader.closed
        writer.close()

    run(main())


def test_what_can_be_asked(run: Run) -> None:
    async def main() -> None:
        reader, writer = pipe()
        fds = reader.fileno(), writer.fileno()
        reading, at_reader = await connect_reader(reader)
        writing, at_writer = await connect_writer(writer)
        assert reading.get_extra_info("pipe") is reader and reading.get_extra_info("other", 1) == 1
        assert writing.get_extra_info("pipe") is writer and writing._pipe is writer
        assert (reading._fileno, writing._fileno) == fds
        assert reading.get_protocol() is at_reader and writing.get_protocol() is at_writer
        assert isinstance(reading, asyncio.ReadTransport) and not isinstance(reading, asyncio.WriteTransport)
        assert isinstance(writing, asyncio.WriteTransport)
        assert writing.get_write_buffer_limits() == (16384, 65536)
        writing.set_write_buffer_limits(high=10, low=5)
        assert writing.get_write_buffer_limits() == (5, 10)
        with pytest.raises(ValueError, match="must be >= low"):
            writing.set_write_buffer_limits(high=1, low=2)
        assert f"fd={fds[0]} polling" in repr(reading) and f"fd={fds[1]} idle bufsize=0" in repr(writing)
        assert not os.get_blocking(fds[0]) and not os.get_blocking(fds[1])
        writing.write = lambda data: None
        writing.write(b"nothing")
        del writing.write
        there, here = pipe()
        taken, _ = await connect_reader(there)
        file = taken._pipe
        taken.pause_reading()
        taken._pipe = None
        del taken
        gc.collect()
        assert not file.closed, "it was taken away, and is no longer the transport's"
        file.close()
        here.close()
        reading.set_protocol(at_reader)
        writing.set_protocol(at_writer)
        writing.close()
        await gone(at_writer)
        await gone(at_reader)
        assert reading._pipe is None and reading.get_protocol() is None
        assert repr(reading).endswith(f"closed fd={fds[0]} closed>")
        assert repr(writing).endswith(f"closed fd={fds[1]} closed>")

    run(main())


def test_what_cannot_be_waited_for_is_refused(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "file"
        path.write_bytes(b"content")
        with path.open("rb") as file:
            with pytest.raises(ValueError, match=r"^Pipe transport is for pipes/sockets only\.$"):
                await connect_reader(file)
            assert file.read() == b"content"
        with path.open("ab") as file:
            with pytest.raises(ValueError, match=r"^Pipe transport is only for pipes, sockets and character devices$"):
                await connect_writer(file)

    run(main())


def test_a_device_takes_what_is_written(run: Run) -> None:
    async def main() -> None:
        writing, at_writer = await connect_writer(opened("/dev/null", "wb"))
        writing.write(MUCH)
        assert writing.get_write_buffer_size() == 0
        writing.close()
        assert await gone(at_writer) is None

    run(main())


def test_a_fifo(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "fifo")
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path)
        reader = opened(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        writer = opened(os.open(path, os.O_WRONLY), "wb")
        reading, at_reader = await connect_reader(reader)
        writing, at_writer = await connect_writer(writer)
        writing.write(b"through")
        assert await at_reader.wait(7) == b"through"
        reading.close()
        assert await gone(at_reader) is None
        assert await gone(at_writer) is None

    run(main())


def test_a_terminal(run: Run) -> None:
    async def main() -> None:
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        reading, at_reader = await connect_reader(opened(ours, "rb"))
        writing, at_writer = await connect_writer(opened(theirs, "wb"))
        writing.write(b"typed")
        assert await at_reader.wait(5) == b"typed"
        writing.close()
        assert await gone(at_writer) is None
        # The other side is closed: the kernel reports EIO, which means the end and is not reported.
        error = await gone(at_reader)
        assert isinstance(error, OSError)
        assert at_reader.events == ["made", "lost"]

    run(main())


def test_sockets(run: Run) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        reading, at_reader = await connect_reader(one)
        writing, at_writer = await connect_writer(other)
        writing.write(b"x")
        assert await at_reader.wait(1) == b"x"
        writing.close()
        await gone(at_writer)
        await gone(at_reader)

    run(main())


def test_streams_on_pipes(run: Run, aio: ModuleType) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ends = pipe()
        reader = aio.StreamReader()
        reading, _ = await loop.connect_read_pipe(lambda: aio.StreamReaderProtocol(reader), ends[0])
        writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, ends[1])
        writer = aio.StreamWriter(writing, protocol, None, loop)
        writer.write(b"line\nrest")
        assert await reader.readline() == b"line\n"
        writer.write(MUCH)
        draining = asyncio.ensure_future(writer.drain())
        assert await reader.readexactly(4 + len(MUCH)) == b"rest" + MUCH
        await draining
        writer.close()
        assert await reader.read() == b""
        await asyncio.sleep(0)

    run(main())


def test_an_exception_in_data_received_is_no_end(run: Run, problems: list[dict[str, Any]]) -> None:
    async def main() -> None:
        reader, writer = pipe()
        reading, at_reader = await connect_reader(reader)
        receive = at_reader.data_received

        def fail(data: bytes) -> None:
            receive(data)
            raise KeyError(data)

        at_reader.data_received = fail  # type: ignore[method-assign]
        writer.write(b"1")
        await at_reader.wait(1)
        writer.write(b"2")
        await at_reader.wait(2)
        assert not reading.is_closing()
        writer.close()
        await gone(at_reader)

    run(main())
    assert [problem["exception"].args for problem in problems] == [(b"1",), (b"2",)]
    assert all("_read_ready" in problem["message"] for problem in problems)


def test_an_exception_in_connection_lost_closes_the_pipe_all_the_same(run: Run, problems: list[dict[str, Any]]) -> None:
    async def main() -> None:
        reader, writer = pipe()
        reading, at_reader = await connect_reader(reader)
        writing, at_writer = await connect_writer(writer)

        def fail(exc: Exception | None) -> None:
            raise KeyError("lost")

        at_reader.connection_lost = at_writer.connection_lost = fail  # type: ignore[method-assign]
        reading.close()
        writing.close()
        while not (reader.closed and writer.closed):
            await asyncio.sleep(0)

    run(main())
    assert [type(problem["exception"]) for problem in problems] == [KeyError, KeyError]


def test_a_reading_error_is_reported(run: Run, problems: list[dict[str, Any]]) -> None:
    async def main() -> None:
        # Reading the writing end fails with EBADF.
        reader, writer = pipe()
        _, at_reader = await connect_reader(writer)
        reader.close()
        error = await gone(at_reader)
        assert isinstance(error, OSError)

    run(main())
    assert [problem["message"] for problem in problems] == ["Fatal read error on pipe transport"]


def test_the_pipe_is_closed_once_by_its_owner(run: Run) -> None:
    async def main() -> None:
        reader, writer = pipe()
        reading, at_reader = await connect_reader(reader)
        number = reader.fileno()
        reading.close()
        await gone(at_reader)
        # The descriptor number now belongs to another file.
        taken = os.dup(writer.fileno())
        assert taken == number
        del reading, reader
        gc.collect()
        assert os.fstat(taken)
        os.close(taken)
        writer.close()

    run(main())


def test_forgotten_transports_warn_and_close(loop: asyncio.AbstractEventLoop) -> None:
    async def forget() -> list[io.FileIO]:
        ends = pipe()
        reading, _ = await connect_reader(ends[0])
        reading.pause_reading()
        writing, _ = await connect_writer(opened("/dev/null", "wb"))
        writing.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return list(ends)

    def lose() -> list[io.FileIO]:
        ends = loop.run_until_complete(forget())
        gc.collect()
        return ends

    with pytest.warns(ResourceWarning, match="unclosed transport"):
        ends = lose()
    assert ends[0].closed
    ends[1].close()


def test_closed_transports_are_freed_at_once(run: Run) -> None:
    async def main() -> None:
        reader, writer = pipe()
        reading, at_reader = await connect_reader(reader)
        writing, at_writer = await connect_writer(writer)
        writing.write(b"x")
        await at_reader.wait(1)
        seen = [weakref.ref(thing) for thing in (reading, at_reader, writing, at_writer)]
        writing.close()
        await gone(at_writer)
        await gone(at_reader)
        del reading, at_reader, writing, at_writer
        gc.collect()
        assert [ref() for ref in seen] == [None] * 4

    run(main())


@pytest.mark.parametrize("side", ["read", "write"])
def test_cancelling_while_it_connects_closes_once(run: Run, side: str) -> None:
    async def main() -> None:
        reader, writer = pipe()
        ours = reader if side == "read" else writer
        theirs = writer if side == "read" else reader
        connecting = asyncio.ensure_future(connect_reader(ours) if side == "read" else connect_writer(ours))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        for _ in range(5):
            await asyncio.sleep(0)
        assert ours.closed
        theirs.close()

    run(main())


def test_a_loop_that_was_closed_before(impl: Any) -> None:
    loop = impl.new_event_loop()
    ends = pipe()
    reading, _ = loop.run_until_complete(loop.connect_read_pipe(asyncio.Protocol, ends[0]))
    writing, _ = loop.run_until_complete(loop.connect_write_pipe(asyncio.BaseProtocol, ends[1]))
    loop.close()
    for transport in (reading, writing):
        assert repr(transport).endswith(" open>")
    del transport

    def lose() -> None:
        nonlocal reading, writing
        del reading, writing
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed transport"):
        lose()
    assert ends[0].closed and ends[1].closed
