"""Streams between server and client.

Reading, limits, flow control, big transfers, misbehaving peers.
"""

import asyncio
import contextlib
import gc
import hashlib
import socket
import struct
import sys
import weakref

import pytest


@contextlib.asynccontextmanager
async def connected(aio, handler, limit=2**16):
    """Start a server that runs `handler(reader, writer)`, and connect to it.

    At the end wait for the handler.
    """
    finished = aio.get_running_loop().create_future()

    async def handle(reader, writer):
        try:
            result = await handler(reader, writer)
        except BaseException as error:
            finished.set_exception(error)
        else:
            finished.set_result(result)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await aio.start_server(handle, "127.0.0.1", 0, limit=limit)
    address = server.sockets[0].getsockname()
    reader, writer = await aio.open_connection(*address, limit=limit)
    try:
        yield reader, writer
        await aio.wait_for(finished, 30)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()


async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()


def test_echo(run, aio):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            for message in (b"x", b"hello", b"y" * 999):
                writer.write(message)
                await writer.drain()
                assert await reader.readexactly(len(message)) == message
            writer.write_eof()
            assert await reader.read() == b""
            assert reader.at_eof()

    run(main())


def sends(*chunks):
    async def handler(reader, writer):
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()

    return handler


def test_types(run, aio):
    async def main():
        async with connected(aio, sends(b"x")) as (reader, writer):
            assert isinstance(reader, aio.StreamReader)
            assert isinstance(writer, aio.StreamWriter)
            assert isinstance(writer.transport, asyncio.Transport)
            assert reader._transport is writer.transport
            assert writer._transport is writer.transport
            assert isinstance(writer._protocol, asyncio.Protocol)
            assert isinstance(reader._buffer, bytearray)
            assert writer.can_write_eof() is True
            assert type(await reader.read()) is bytes

    run(main())


def test_read(run, aio):
    async def main():
        async with connected(aio, sends(b"0123456789")) as (reader, writer):
            assert await reader.read(0) == b""
            assert await reader.read(3) == b"012"
            assert await reader.read(1) == b"3"
            assert await reader.read(-1) == b"456789"
            assert await reader.read() == b""
            assert await reader.read(5) == b""
            assert reader.at_eof()

    run(main())


def test_readline(run, aio):
    async def main():
        async with connected(aio, sends(b"one\ntw", b"o\n\nlast")) as (reader, writer):
            assert await reader.readline() == b"one\n"
            assert await reader.readline() == b"two\n"
            assert await reader.readline() == b"\n"
            assert await reader.readline() == b"last"
            assert await reader.readline() == b""

    run(main())


def test_readline_as_an_iterator(run, aio):
    async def main():
        async with connected(aio, sends(b"a\nb\nc")) as (reader, writer):
            assert [line async for line in reader] == [b"a\n", b"b\n", b"c"]

    run(main())


def test_readexactly(run, aio):
    async def main():
        async with connected(aio, sends(b"12345678")) as (reader, writer):
            assert await reader.readexactly(0) == b""
            assert await reader.readexactly(5) == b"12345"
            with pytest.raises(ValueError, match="readexactly size can not be less than zero"):
                await reader.readexactly(-1)
            with pytest.raises(aio.IncompleteReadError, match="3 bytes read on a total of 10 expected bytes") as caught:
                await reader.readexactly(10)
            assert caught.value.partial == b"678"
            assert caught.value.expected == 10

    run(main())


def test_readuntil(run, aio):
    async def main():
        async with connected(aio, sends(b"key: va", b"lue\r", b"\nrest")) as (reader, writer):
            assert await reader.readuntil(b": ") == b"key: "
            assert await reader.readuntil(b"\r\n") == b"value\r\n"
            with pytest.raises(ValueError, match="Separator should be at least one-byte string"):
                await reader.readuntil(b"")
            with pytest.raises(aio.IncompleteReadError) as caught:
                await reader.readuntil(b"\n")
            assert caught.value.partial == b"rest"
            assert caught.value.expected is None

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="several separators came with 3.13")
def test_readuntil_several_separators(run, aio):
    async def main():
        async with connected(aio, sends(b"a,b;c")) as (reader, writer):
            assert await reader.readuntil((b";", b",")) == b"a,"
            assert await reader.readuntil((b",", b";")) == b"b;"
            with pytest.raises(ValueError, match="Separator should contain at least one element"):
                await reader.readuntil(())
            assert await reader.read() == b"c"

    run(main())


def test_limits(run, aio):
    async def main():
        async with connected(aio, sends(b"x" * 30 + b"\n" + b"short\n"), limit=16) as (reader, writer):
            with pytest.raises(ValueError, match=r"chunk exceed the limit|chunk is longer than limit|is found, but"):
                await reader.readline()
            # The line that was too long was dropped; asyncio may raise more than once.
            while True:
                try:
                    line = await reader.readline()
                except ValueError:
                    continue
                if line.endswith(b"short\n"):
                    break

    run(main())


def test_readuntil_overrun_keeps_the_data(run, aio):
    async def main():
        async with connected(aio, sends(b"x" * 20 + b"\n"), limit=16) as (reader, writer):
            with pytest.raises(aio.LimitOverrunError) as caught:
                await reader.readuntil(b"\n")
            assert caught.value.consumed >= 17
            assert await reader.readexactly(21) == b"x" * 20 + b"\n"

    run(main())


def test_a_big_limit_line(run, aio):
    async def main():
        line = b"z" * 100_000 + b"\n"
        async with connected(aio, sends(line), limit=2**17) as (reader, writer):
            assert await reader.readline() == line

    run(main())


def test_one_reader_at_a_time(run, aio):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            first = aio.create_task(reader.read(10))
            await aio.sleep(0)
            with pytest.raises(
                RuntimeError, match=r"read\(\) called while another coroutine is already waiting for incoming data"
            ):
                await reader.read(10)
            writer.write(b"data")
            assert await first == b"data"
            writer.write_eof()

    run(main())


def test_a_cancelled_read_loses_nothing(run, aio):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            waiting = aio.create_task(reader.readexactly(6))
            writer.write(b"abc")
            await writer.drain()
            while not reader._buffer:
                await aio.sleep(0)
            waiting.cancel()
            with pytest.raises(aio.CancelledError):
                await waiting
            writer.write(b"def")
            assert await reader.readexactly(6) == b"abcdef"
            with pytest.raises(TimeoutError):
                await aio.wait_for(reader.read(1), 0.005)
            writer.write_eof()

    run(main())


def test_the_awaitables_are_coroutines(run, aio):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            writer.write(b"one\ntwo")
            task = aio.create_task(reader.readline())
            assert await task == b"one\n"
            first, second = await aio.gather(reader.readexactly(3), writer.drain())
            assert (first, second) == (b"two", None)
            assert await aio.wait_for(writer.drain(), 5) is None
            writer.write_eof()

    run(main())


def test_half_close(run, aio):
    async def talk(reader, writer):
        assert await reader.read() == b"question"
        assert reader.at_eof()
        writer.write(b"answer")
        await writer.drain()

    async def main():
        async with connected(aio, talk) as (reader, writer):
            writer.write(b"question")
            writer.write_eof()
            assert await reader.read() == b"answer"

    run(main())


def test_write_after_eof_is_refused(run, aio):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            writer.write_eof()
            with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
                writer.write(b"more")
            writer.write_eof()

    run(main())


def test_writelines_and_kinds_of_bytes(run, aio):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            writer.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
            writer.write(bytearray(b"d"))
            writer.write(memoryview(b"-e-")[1:2])
            writer.write(b"")
            assert await reader.readexactly(5) == b"abcde"
            with pytest.raises(TypeError, match="data argument must be a bytes.* object, not 'str'"):
                writer.write("text")
            writer.write_eof()

    run(main())


def test_a_mutable_buffer_may_change_after_write(run, aio):
    async def swallow(reader, writer):
        await go.wait()
        return await reader.read()

    async def main():
        nonlocal go
        go = aio.Event()
        data = bytearray(b"x" * 4_000_000)
        async with connected(aio, swallow) as (reader, writer):
            writer.write(data)
            data[:] = b"y" * len(data)
            go.set()
            writer.write_eof()
            await reader.read()

    go = None
    run(main())


def test_several_writes_in_one_step_arrive_in_order(run, aio):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            for number in range(1000):
                writer.write(b"%d," % number)
            expected = b"".join(b"%d," % number for number in range(1000))
            assert await reader.readexactly(len(expected)) == expected
            writer.write_eof()

    run(main())


@pytest.mark.parametrize("chunk", [100, 4096, 65536, 1_000_003])
def test_big_transfers_both_ways(run, aio, chunk):
    total = 8_000_024

    def stream(seed):
        block = hashlib.sha256(seed).digest() * 32
        return (block * (chunk // len(block) + 1))[:chunk]

    async def send(writer, seed):
        block, digest, left = stream(seed), hashlib.sha256(), total if chunk > 1000 else total // 20
        while left:
            part = block[: min(left, chunk)]
            left -= len(part)
            digest.update(part)
            writer.write(part)
            await writer.drain()
        writer.write_eof()
        return digest.digest()

    async def receive(reader):
        digest = hashlib.sha256()
        while data := await reader.read(100_000):
            digest.update(data)
        return digest.digest()

    async def serve(reader, writer):
        received.append(await aio.gather(receive(reader), send(writer, b"down")))

    async def main():
        async with connected(aio, serve) as (reader, writer):
            got, sent = await aio.gather(receive(reader), send(writer, b"up"))
        [(server_got, server_sent)] = received
        assert got == server_sent
        assert server_got == sent

    received = []
    run(main())


def test_drain_waits_for_a_slow_reader(run, aio):
    async def slow(reader, writer):
        await go.wait()
        size = 0
        while data := await reader.read(100_000):
            size += len(data)
        return size

    async def main():
        nonlocal go
        go = aio.Event()
        async with connected(aio, slow) as (reader, writer):
            size = 20_000_000
            writer.write(b"x" * size)
            assert writer.transport.get_write_buffer_size() > 2**16
            draining = aio.create_task(writer.drain())
            for _ in range(5):
                await aio.sleep(0)
            assert not draining.done()
            go.set()
            await draining
            assert writer.transport.get_write_buffer_size() <= writer.transport.get_write_buffer_limits()[0]
            writer.write_eof()
            await reader.read()

    go = None
    run(main())


def test_the_reader_stops_reading_when_its_buffer_is_full(run, aio):
    async def main():
        size = 10_000_000
        async with connected(aio, sends(b"x" * size), limit=1000) as (reader, writer):
            while not reader._paused:
                await aio.sleep(0.001)  # the kernel decides how it is split
            assert not writer.transport.is_reading()
            held = len(reader._buffer)
            assert 2000 < held < 2_000_000
            await aio.sleep(0.005)
            assert len(reader._buffer) == held
            got = 0
            while data := await reader.read(100_000):
                got += len(data)
            assert got == size

    run(main())


def test_extra_info(run, aio):
    async def keep(reader, writer):
        info["server"] = {name: writer.get_extra_info(name) for name in ("peername", "sockname", "socket")}
        await reader.read()

    async def main():
        async with connected(aio, keep) as (reader, writer):
            mine = {name: writer.get_extra_info(name) for name in ("peername", "sockname", "socket")}
            writer.write_eof()
            await reader.read()
            assert mine["sockname"] == info["server"]["peername"]
            assert mine["peername"] == info["server"]["sockname"]
            assert isinstance(mine["socket"], asyncio.trsock.TransportSocket)
            assert mine["socket"].family == socket.AF_INET
            assert mine["socket"].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert writer.get_extra_info("nonsense") is None
            assert writer.get_extra_info("nonsense", 5) == 5
            assert writer.get_extra_info("sslcontext") is None

    info = {}
    run(main())


def test_closing(run, aio):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            assert not writer.is_closing()
            writer.write(b"last words")
            writer.close()
            assert writer.is_closing()
            writer.close()
            await writer.wait_closed()
            await writer.wait_closed()
            assert writer.transport.is_closing()

    run(main())


def test_what_is_written_before_close_arrives(run, aio):
    async def collect(reader, writer):
        got.append(await reader.read())

    async def main():
        async with connected(aio, collect) as (reader, writer):
            writer.write(b"z" * 5_000_000)
            writer.close()
            await writer.wait_closed()
        assert len(got[0]) == 5_000_000

    got = []
    run(main())


def test_write_after_close_raises_nothing(run, aio, caplog):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            writer.close()
            for _ in range(3):
                writer.write(b"too late")
            await writer.wait_closed()

    run(main())


def test_writing_to_a_lost_connection_warns_after_a_few(run, aio, caplog):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            writer.transport.abort()
            await aio.sleep(0)
            for _ in range(10):
                writer.write(b"nobody")
            assert (
                caplog.text.count("socket.send() raised exception.") == 6
            )  # logged from the fifth call on; the abort counts as one

    run(main())


def test_drain_after_the_connection_was_lost(run, aio):
    async def main():
        async with connected(aio, echo) as (reader, writer):
            writer.transport.abort()
            await aio.sleep(0)
            writer.write(b"x")
            with pytest.raises(ConnectionResetError, match="Connection lost"):
                await writer.drain()

    run(main())


def reset(writer):
    """Close a socket so that the kernel sends RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def test_reset_while_reading(run, aio):
    async def resets(reader, writer):
        await reader.read(1)
        reset(writer)

    async def main():
        async with connected(aio, resets) as (reader, writer):
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert isinstance(reader.exception(), ConnectionResetError)
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()
            with pytest.raises(ConnectionResetError):
                await writer.wait_closed()

    run(main())


def test_reset_in_the_middle_of_a_write(run, aio):
    async def resets(reader, writer):
        await reader.read(1)
        reset(writer)

    async def main():
        async with connected(aio, resets) as (reader, writer):
            writer.write(b"x" * 20_000_000)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await writer.drain()
            writer.close()
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await writer.wait_closed()

    run(main())


def test_a_peer_that_leaves_while_drain_waits(run, aio):
    async def leaves(reader, writer):
        await reader.read(1)

    async def main():
        async with connected(aio, leaves) as (reader, writer):
            writer.write(b"x" * 20_000_000)
            waiting = [aio.create_task(writer.drain()) for _ in range(3)]
            done, _ = await aio.wait(waiting)
            assert {type(task.exception()) for task in done} <= {ConnectionResetError, BrokenPipeError}
            reader.exception()

    run(main())


def test_abort(run, aio):
    async def waits(reader, writer):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b"reset"

    async def main():
        async with connected(aio, waits) as (reader, writer):
            writer.transport.abort()
            assert await reader.read() == b""
            assert writer.is_closing()
            assert writer.transport.get_write_buffer_size() == 0

    run(main())


def test_a_handler_that_raises(run, aio, problems):
    error = ValueError("in the handler")

    async def handle(reader, writer):
        raise error

    async def main():
        server = await aio.start_server(handle, "127.0.0.1", 0)
        async with server:
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(main())
    [context] = problems
    assert context["message"] == "Unhandled exception in client_connected_cb"
    assert context["exception"] is error
    assert set(context) == {"message", "exception", "transport"}
    assert context["transport"].is_closing()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="older asyncio reports it as a failing callback of its own")
def test_a_handler_that_is_cancelled(run, aio):
    async def handle(reader, writer):
        writer.close()  # versions differ in whether they close it
        raise aio.CancelledError

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(main())


def test_a_handler_that_is_a_plain_function(run, aio):
    async def main():
        def handle(reader, writer):
            writer.write(b"from a function")
            writer.close()

        async with await aio.start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b"from a function"
            writer.close()
            await writer.wait_closed()

    run(main())


def test_a_handler_keeps_its_context(run, aio):
    async def main():
        tasks = []

        async def handle(reader, writer):
            tasks.append(aio.current_task())
            await aio.sleep(0)
            writer.close()

        async with await aio.start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            await reader.read()
            writer.close()
            await writer.wait_closed()
            await aio.wait(tasks)
            assert isinstance(tasks[0], asyncio.Task)

    run(main())


def test_a_reader_fed_by_hand(run, aio):
    async def main():
        reader = aio.StreamReader(limit=10)
        waiting = aio.create_task(reader.readline())
        await aio.sleep(0)
        reader.feed_data(b"by ")
        reader.feed_data(b"hand\nrest")
        assert await waiting == b"by hand\n"
        reader.feed_eof()
        assert not reader.at_eof()
        assert await reader.read() == b"rest"
        assert reader.at_eof()
        reader = aio.StreamReader()
        reader.set_exception(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await reader.read()
        with pytest.raises(ValueError, match="Limit cannot be <= 0"):
            aio.StreamReader(limit=0)

    run(main())


def test_reader_repr(run, aio):
    async def main():
        reader = aio.StreamReader()
        assert repr(reader) == "<StreamReader>"
        reader.feed_data(b"1234")
        reader.feed_eof()
        assert repr(reader) == "<StreamReader 4 bytes eof>"
        limited = aio.StreamReader(limit=5)
        assert repr(limited) == "<StreamReader limit=5>"

    run(main())


def test_a_stream_reader_protocol_made_by_hand(run, aio):
    async def main():
        loop = aio.get_running_loop()
        async with await aio.start_server(lambda r, w: (w.write(b"hi\n"), w.close()), "127.0.0.1", 0) as server:
            reader = aio.StreamReader(loop=loop)
            protocol = aio.StreamReaderProtocol(reader, loop=loop)
            transport, same = await loop.create_connection(lambda: protocol, *server.sockets[0].getsockname())
            assert same is protocol
            writer = aio.StreamWriter(transport, protocol, reader, loop)
            assert await reader.read() == b"hi\n"
            writer.close()
            await writer.wait_closed()

    run(main())


def test_a_subclass_of_the_stream_reader_protocol(run, aio):
    seen = []

    class Protocol(aio.StreamReaderProtocol):
        def connection_made(self, transport):
            seen.append("made")
            super().connection_made(transport)

        def data_received(self, data):
            seen.append(data)
            super().data_received(data.upper())

        def eof_received(self):
            seen.append("eof")
            return super().eof_received()

        def connection_lost(self, error):
            seen.append(("lost", error))
            super().connection_lost(error)

    async def main():
        loop = aio.get_running_loop()
        async with await aio.start_server(lambda r, w: (w.write(b"hi"), w.close()), "127.0.0.1", 0) as server:
            reader = aio.StreamReader(loop=loop)
            transport, protocol = await loop.create_connection(
                lambda: Protocol(reader, loop=loop), *server.sockets[0].getsockname()
            )
            writer = aio.StreamWriter(transport, protocol, reader, loop)
            assert await reader.read() == b"HI"
            writer.close()
            await writer.wait_closed()

    run(main())
    assert seen == ["made", b"hi", "eof", ("lost", None)]


def test_streams_are_freed(run, aio):
    async def main():
        loop = aio.get_running_loop()
        alive = []

        async def handle(reader, writer):
            alive.extend([weakref.ref(reader), weakref.ref(writer), weakref.ref(writer.transport)])
            await reader.read()
            writer.close()
            await writer.wait_closed()

        server = await aio.start_server(handle, "127.0.0.1", 0)
        for _ in range(20):
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            alive.extend([weakref.ref(reader), weakref.ref(writer), weakref.ref(writer.transport)])
            writer.close()
            await writer.wait_closed()
            del reader, writer
        server.close()
        await server.wait_closed()
        while len(aio.all_tasks()) > 1:
            await aio.sleep(0)
        del loop
        await aio.sleep(0)
        gc.collect()
        assert len(alive) == 120
        assert [ref() for ref in alive if ref() is not None] == []

    run(main())


def test_an_unclosed_writer_warns(run, aio):
    async def main():
        async with await aio.start_server(lambda r, w: w.close(), "127.0.0.1", 0) as server:
            _reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            with pytest.warns(
                ResourceWarning, match="unclosed <StreamWriter" if sys.version_info >= (3, 13) else "unclosed"
            ):
                writer.__del__() if sys.version_info >= (3, 13) else writer.transport.__del__()
            writer.close()
            await writer.wait_closed()

    run(main())


@pytest.mark.one_mode
def test_many_connections(run, aio):
    async def main():
        async def handle(reader, writer):
            writer.write((await reader.readexactly(4))[::-1])
            writer.close()
            await writer.wait_closed()

        async def visit(number):
            async with gate:
                reader, writer = await aio.open_connection(*address)
            writer.write(struct.pack("<I", number))
            assert struct.unpack(">I", await reader.read()) == (number,)
            writer.close()
            await writer.wait_closed()

        gate = aio.Semaphore(50)
        async with await aio.start_server(handle, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            await aio.gather(*(visit(number) for number in range(300)))

    run(main())
