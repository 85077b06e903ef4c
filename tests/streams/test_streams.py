"""StreamReader and StreamWriter: results of reads, exceptions, remaining data."""

import asyncio
import gc
import socket
import ssl
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import Implementation


@asynccontextmanager
async def pair(aio: Any, **kwds: Any) -> AsyncIterator[tuple[Any, Any, socket.socket]]:
    """Return a stream on one end of a socket pair, and the other end."""
    ours, theirs = socket.socketpair()
    reader, writer = await aio.open_connection(sock=ours, **kwds)
    try:
        yield reader, writer, theirs
    finally:
        theirs.close()
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass


def test_reads(aio: Any, run: Any) -> None:
    async def main() -> None:
        async with pair(aio) as (reader, writer, peer):
            peer.sendall(b"hello")
            assert await reader.read(3) == b"hel"
            assert await reader.read(100) == b"lo"
            assert await reader.read(0) == b""
            peer.sendall(b"one\ntwo\r\nthr")
            assert await reader.readline() == b"one\n"
            assert await reader.readuntil(b"\r\n") == b"two\r\n"
            peer.sendall(b"ee")
            assert await reader.readexactly(5) == b"three"
            peer.sendall(b"rest")
            peer.shutdown(socket.SHUT_WR)
            assert await reader.read() == b"rest"
            assert reader.at_eof()
            assert await reader.read(1) == b""
            assert await reader.readline() == b""

    run(main())


def test_reads_give_exact_bytes_whatever_was_fed(aio: Any, run: Any) -> None:
    class Special(bytes):
        pass

    async def main() -> None:
        for given in (b"data", bytearray(b"data"), memoryview(b"data"), Special(b"data")):
            reader = aio.StreamReader()
            reader.feed_data(given)
            got = await reader.read(10)
            assert type(got) is bytes and got == b"data"
        reader = aio.StreamReader()
        changing = bytearray(b"before")
        reader.feed_data(changing)
        changing[:] = b"after!"
        assert await reader.read(10) == b"before"

    run(main())


def test_incomplete_reads(aio: Any, run: Any) -> None:
    async def main() -> None:
        reader = aio.StreamReader()
        reader.feed_data(b"abc")
        reader.feed_eof()
        with pytest.raises(asyncio.IncompleteReadError) as error:
            await reader.readexactly(5)
        assert (error.value.partial, error.value.expected) == (b"abc", 5)
        assert reader.at_eof()
        reader = aio.StreamReader()
        reader.feed_data(b"abc")
        reader.feed_eof()
        with pytest.raises(asyncio.IncompleteReadError) as error:
            await reader.readuntil(b";")
        assert (error.value.partial, error.value.expected) == (b"abc", None)
        with pytest.raises(ValueError, match="^readexactly size can not be less than zero$"):
            await reader.readexactly(-1)
        assert await reader.readexactly(0) == b""
        with pytest.raises(ValueError, match="^Separator should be at least one-byte string$"):
            await reader.readuntil(b"")

    run(main())


@pytest.mark.parametrize("limit", [3, 7])
def test_limits(aio: Any, run: Any, limit: int) -> None:
    async def main() -> list[Any]:
        seen: list[Any] = []
        for data in (b"line\nnext\n", b"a much longer line\nnext\n", b"no newline at all"):
            for method in ("readline", "readuntil"):
                reader = aio.StreamReader(limit=limit)
                reader.feed_data(data)
                reader.feed_eof()
                for _ in range(3):
                    try:
                        seen.append(await getattr(reader, method)())
                    except (ValueError, asyncio.LimitOverrunError, asyncio.IncompleteReadError) as error:
                        seen.append((type(error), error.args, getattr(error, "consumed", None)))
                seen.append(bytes(reader._buffer))
        return seen

    async def oracle() -> list[Any]:
        nonlocal aio
        aio = asyncio
        return await main()

    assert run(main()) == asyncio.run(oracle())
    with pytest.raises(ValueError, match="^Limit cannot be <= 0$"):
        aio.StreamReader(limit=0, loop=object())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="tuples of separators came with 3.13")
def test_several_separators(aio: Any, run: Any) -> None:
    async def main() -> None:
        reader = aio.StreamReader()
        reader.feed_data(b"oneSEPtwo;threeS")
        assert await reader.readuntil((b"SEP", b";")) == b"oneSEP"
        assert await reader.readuntil((b"SEP", b";")) == b"two;"
        task = asyncio.ensure_future(reader.readuntil((b"SEP", b";")))
        await asyncio.sleep(0)
        reader.feed_data(b"EP")
        assert await task == b"threeSEP"
        with pytest.raises(ValueError, match="^Separator should contain at least one element$"):
            await reader.readuntil(())

    run(main())


def test_iteration(aio: Any, run: Any) -> None:
    async def main() -> None:
        reader = aio.StreamReader()
        reader.feed_data(b"one\ntwo\nrest")
        reader.feed_eof()
        assert [line async for line in reader] == [b"one\n", b"two\n", b"rest"]

    run(main())


def test_two_readers_at_once(aio: Any, run: Any) -> None:
    async def main() -> None:
        reader = aio.StreamReader()
        task = asyncio.create_task(reader.read(1))
        await asyncio.sleep(0)
        for method, name in (
            (reader.read(1), "read"),
            (reader.readline(), "readuntil"),
            (reader.readexactly(1), "readexactly"),
        ):
            text = f"{name}() called while another coroutine is already waiting for incoming data"
            with pytest.raises(RuntimeError) as error:
                await method
            assert str(error.value) == text
        reader.feed_data(b"x")
        assert await task == b"x"

    run(main())


def test_a_cancelled_read_loses_nothing(aio: Any, run: Any) -> None:
    async def main() -> None:
        async with pair(aio) as (reader, writer, peer):
            for method in (lambda: reader.readexactly(6), reader.readline, lambda: reader.read(100)):
                task = asyncio.create_task(method())
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            peer.sendall(b"abc")
            task = asyncio.create_task(reader.readexactly(6))
            while not reader._buffer:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            peer.sendall(b"def")
            assert await reader.readexactly(6) == b"abcdef"

    run(main())


def test_reads_are_coroutines(aio: Any, run: Any) -> None:
    async def main() -> None:
        reader = aio.StreamReader()
        for awaitable in (reader.read(1), reader.readline(), reader.readexactly(1), reader.readuntil()):
            assert asyncio.iscoroutine(awaitable)
            awaitable.close()
        task = asyncio.create_task(reader.readline())
        assert "StreamReader.readline" in repr(task)
        await asyncio.sleep(0)
        reader.feed_data(b"x\n")
        assert await asyncio.wait_for(task, 5) == b"x\n"
        done = reader.read(0)
        assert await done == b""
        with pytest.raises(RuntimeError, match="^cannot reuse already awaited coroutine$"):
            await done
        with pytest.raises(KeyError):
            reader.read(1).throw(KeyError("thrown"))

    run(main())


def test_set_exception(aio: Any, run: Any) -> None:
    async def main() -> None:
        reader = aio.StreamReader()
        assert reader.exception() is None
        task = asyncio.create_task(reader.read(1))
        await asyncio.sleep(0)
        problem = OSError("boom")
        reader.set_exception(problem)
        assert reader.exception() is problem
        with pytest.raises(OSError) as error:
            await task
        assert error.value is problem
        for method in (reader.read, reader.readline, reader.readuntil):
            with pytest.raises(OSError, match="boom"):
                await method()
        with pytest.raises(OSError, match="boom"):
            await reader.readexactly(0)

    run(main())


def test_by_hand(aio: Any, loop: Any) -> None:
    reader = aio.StreamReader(loop=loop)
    assert repr(reader) == "<StreamReader>"
    reader.feed_data(b"12345")
    assert repr(reader) == "<StreamReader 5 bytes>"
    reader.feed_eof()
    assert repr(reader) == "<StreamReader 5 bytes eof>"
    assert not reader.at_eof()
    with pytest.raises(AssertionError, match="feed_data after feed_eof"):
        reader.feed_data(b"x")
    reader = aio.StreamReader(123, loop=loop)
    reader._transport = transport = object()
    assert repr(reader) == f"<StreamReader limit=123 transport={transport!r}>"
    with pytest.raises(AssertionError, match="Transport already set"):
        reader.set_transport(transport)
    reader.marked = "an attribute"
    assert reader.marked == "an attribute"


def test_the_buffer_can_be_taken_in_hand(aio: Any, run: Any) -> None:
    """Libraries read `_buffer`, and some remove data from it."""

    async def main() -> None:
        reader = aio.StreamReader()
        reader.feed_data(b"abcdef\n")
        assert reader._buffer == bytearray(b"abcdef\n")
        del reader._buffer[:3]
        assert await reader.read(2) == b"de"
        reader.feed_data(b"ghi")
        assert await reader.readline() == b"f\n"
        assert bytes(reader._buffer) == b"ghi"
        reader._buffer.clear()
        reader.feed_eof()
        assert reader.at_eof()

    run(main())


class Transport:
    """A transport that counts pauses and resumes."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


def test_too_much_pauses_the_transport(aio: Any, run: Any) -> None:
    async def main() -> None:
        reader = aio.StreamReader(limit=4)
        transport = Transport()
        reader.set_transport(transport)
        reader.feed_data(b"12345678")
        assert transport.calls == []
        reader.feed_data(b"9")
        assert transport.calls == ["pause"] and reader._paused
        assert await reader.read(4) == b"1234"
        assert transport.calls == ["pause"]
        assert await reader.read(1) == b"5"
        assert transport.calls == ["pause", "resume"] and not reader._paused

    run(main())


def test_a_fast_peer_is_held_back(aio: Any, run: Any) -> None:
    size = 4_000_000

    async def main() -> None:
        async with pair(aio, limit=1000) as (reader, writer, peer):
            peer.setblocking(False)
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(peer, bytes(size)))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not sending.done()
            assert reader._paused and len(reader._buffer) < 600_000
            assert len(await reader.readexactly(size)) == size
            await sending

    run(main())


def test_data_of_all_sizes_arrives(aio: Any, run: Any) -> None:
    async def main() -> None:
        async def echo(reader: Any, writer: Any) -> None:
            while data := await reader.read(200_000):
                writer.write(data)
                await writer.drain()
            writer.close()

        server = await aio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
        for size in (1, 100, 4095, 4096, 5000, 65536, 65537, 300_000, 3, 1_000_000, 10):
            data = bytes(range(256)) * (size // 256 + 1)
            writer.write(data[:size])
            assert await reader.readexactly(size) == data[:size]
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_drain_waits_while_writing_is_paused(aio: Any, run: Any) -> None:
    async def main() -> None:
        async with pair(aio) as (reader, writer, peer):
            await writer.drain()
            writer.write(bytes(3_000_000))
            drain = asyncio.create_task(writer.drain())
            for _ in range(3):
                await asyncio.sleep(0)
            assert not drain.done()
            assert writer._protocol._paused
            peer.setblocking(False)
            got = 0
            while got < 3_000_000:
                got += len(await asyncio.get_running_loop().sock_recv(peer, 1_000_000))
            await drain
            assert not writer._protocol._paused
            assert len(writer._protocol._drain_waiters) == 0

    run(main())


def test_drain_after_the_connection_was_lost(aio: Any, run: Any) -> None:
    async def main() -> None:
        async with pair(aio) as (reader, writer, peer):
            peer.close()
            writer.write(b"into the void")
            with pytest.raises(ConnectionResetError, match="^Connection lost$"):
                await writer.drain()
        async with pair(aio) as (reader, writer, peer):
            writer.close()
            with pytest.raises(ConnectionResetError, match="^Connection lost$"):
                await writer.drain()

    run(main())


def test_a_reset_reaches_reader_and_wait_closed(aio: Any, run: Any) -> None:
    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        reader, writer = await aio.open_connection(*listener.getsockname())
        peer, _ = listener.accept()
        listener.close()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()
        assert writer.is_closing()

    run(main())


def test_handlers_failure_is_reported_and_closes(aio: Any, run: Any, problems: list[Any]) -> None:
    async def main() -> None:
        async def handle(reader: Any, writer: Any) -> None:
            raise ZeroDivisionError("in the handler")

        server = await aio.start_server(handle, "127.0.0.1", 0)
        reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())
    (problem,) = problems
    assert problem["message"] == "Unhandled exception in client_connected_cb"
    assert isinstance(problem["exception"], ZeroDivisionError)
    assert isinstance(problem["transport"], asyncio.Transport)


def test_plain_function_as_handler(aio: Any, run: Any, problems: list[Any]) -> None:
    async def main() -> None:
        streams = []

        def handle(reader: Any, writer: Any) -> None:
            streams.append((reader, writer))
            writer.write(b"hi")
            writer.close()
            if len(streams) == 2:
                raise KeyError("second")

        server = await aio.start_server(handle, "127.0.0.1", 0)
        for _ in range(2):
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b"hi"
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())
    (problem,) = problems
    assert isinstance(problem["exception"], KeyError)
    # Later patch releases of 3.14 report it as the failure of a coroutine.
    constants = asyncio.StreamReaderProtocol.connection_made.__code__.co_consts
    message = "Unhandled exception in client_connected_cb"
    if message not in constants:
        message = "Exception in callback StreamReaderProtocol.connection_made("
    assert problem["message"].startswith(message)


def test_context_of_the_server_reaches_the_handler(aio: Any, run: Any) -> None:
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def main() -> None:
        seen = []

        async def handle(reader: Any, writer: Any) -> None:
            seen.append(variable.get())
            variable.set("changed by a handler")
            writer.close()

        variable.set("of the server")
        server = await aio.start_server(handle, "127.0.0.1", 0)
        variable.set("later")
        for _ in range(2):
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            await reader.read()
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert seen == ["of the server"] * 2

    run(main())


def test_unix_streams(aio: Any, run: Any, tmp_path: Any) -> None:
    async def main() -> None:
        async def handle(reader: Any, writer: Any) -> None:
            assert writer.get_extra_info("peername") == ""
            writer.write(await reader.readline())
            writer.close()

        path = str(tmp_path / "socket")
        server = await aio.start_unix_server(handle, path)
        reader, writer = await aio.open_unix_connection(path)
        assert writer.get_extra_info("peername") == path
        assert writer.get_extra_info("sockname") == ""
        writer.write(b"line\n")
        assert await reader.read() == b"line\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    import trustme

    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def test_tls(aio: Any, run: Any) -> None:
    server_context, client_context = contexts()

    async def main() -> None:
        async def handle(reader: Any, writer: Any) -> None:
            while data := await reader.read(100_000):
                writer.write(data)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await aio.start_server(handle, "127.0.0.1", 0, ssl=server_context)
        reader, writer = await aio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
        )
        assert writer.get_extra_info("cipher") and writer.get_extra_info("sslcontext") is client_context
        for size in (1, 1000, 500_000):
            writer.write(b"x" * size)
            await writer.drain()
            assert await reader.readexactly(size) == b"x" * size
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_start_tls(aio: Any, run: Any) -> None:
    server_context, client_context = contexts()

    async def main() -> None:
        async def handle(reader: Any, writer: Any) -> None:
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.drain()
            await writer.start_tls(server_context)
            assert writer.get_extra_info("sslcontext") is server_context
            writer.write(b"secret " + await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await aio.start_server(handle, "127.0.0.1", 0)
        reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(client_context, server_hostname="localhost")
        writer.write(b"hello\n")
        assert await reader.readline() == b"secret hello\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_an_unclosed_writer_warns(aio: Any, run: Any) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await aio.open_connection(sock=ours)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del reader, writer
            gc.collect()
        assert any("unclosed <StreamWriter" in str(warning.message) for warning in caught)
        assert all(warning.category is ResourceWarning for warning in caught)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert theirs.recv(1) == b""
        theirs.close()

    run(main())


def test_subclasses(aio: Any, run: Any) -> None:
    """Overridden methods of subclasses are called as in asyncio, also by asyncio's own protocol."""

    async def main() -> None:
        calls = []

        class Reader(aio.StreamReader):  # type: ignore[misc, name-defined]
            def feed_data(self, data: bytes) -> None:
                calls.append(("feed_data", bytes(data)))
                super().feed_data(data)

            def feed_eof(self) -> None:
                calls.append(("feed_eof",))
                super().feed_eof()

        class Protocol(aio.StreamReaderProtocol):  # type: ignore[misc, name-defined]
            def data_received(self, data: bytes) -> None:
                calls.append(("data_received", bytes(data)))
                super().data_received(data)

            def connection_lost(self, exc: BaseException | None) -> None:
                calls.append(("connection_lost", exc))
                super().connection_lost(exc)

        loop = asyncio.get_running_loop()
        reader = Reader(loop=loop)
        protocol = Protocol(reader, loop=loop)
        ours, theirs = socket.socketpair()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        writer = aio.StreamWriter(transport, protocol, reader, loop)
        theirs.sendall(b"abc")
        assert await reader.read(10) == b"abc"
        theirs.close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert calls == [
            ("data_received", b"abc"),
            ("feed_data", b"abc"),
            ("feed_eof",),
            ("connection_lost", None),
            ("feed_eof",),
        ]

    run(main())


@pytest.mark.one_mode
def test_nothing_is_left_of_thousands_of_connections(aio: Any, run: Any, impl: Implementation) -> None:
    async def main() -> None:
        async def handle(reader: Any, writer: Any) -> None:
            writer.write(await reader.readline())
            writer.close()

        # If the queue of connections is full, the kernel retries after a second.
        server = await aio.start_server(handle, "127.0.0.1", 0, backlog=200)
        address = server.sockets[0].getsockname()

        async def client() -> None:
            reader, writer = await aio.open_connection(*address)
            writer.write(b"x\n")
            assert await reader.read() == b"x\n"
            writer.close()
            await writer.wait_closed()

        async def counted() -> dict[str, int]:
            await asyncio.gather(*(client() for _ in range(200)))
            await asyncio.sleep(0.05)  # until the server's transports are closed, too
            gc.collect()
            counts: dict[str, int] = {}
            for thing in gc.get_objects():
                name = type(thing).__name__
                counts[name] = counts.get(name, 0) + 1
            return counts

        await counted()
        before = await counted()
        after = await counted()
        names = ("StreamReader", "StreamWriter", "StreamReaderProtocol", "SocketTransport", "Task", "Future", "socket")
        assert {name: after.get(name, 0) - before.get(name, 0) for name in names} == dict.fromkeys(names, 0)
        server.close()
        await server.wait_closed()

    run(main())
