"""Socket transports: order of calls, flow control, half-close, errors, private attributes."""

import asyncio
import contextvars
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest


class Recorder(asyncio.Protocol):
    """Records its calls, in order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()
        self.keep_open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(("lost", type(exc) if exc else None))
        self.lost.set_result(None)


@asynccontextmanager
async def pair(factory: Callable[[], Any] = Recorder) -> AsyncIterator[tuple[Any, Any, socket.socket]]:
    """Return a transport on one end of a socket pair, its protocol, and the other end."""
    ours, theirs = socket.socketpair()
    transport, protocol = await asyncio.get_running_loop().create_connection(factory, sock=ours)
    try:
        yield transport, protocol, theirs
    finally:
        theirs.close()
        if not protocol.lost.done():
            transport.abort()
            await protocol.lost


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def test_the_life_of_a_connection(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, protocol, peer):
            assert isinstance(transport, asyncio.Transport)
            assert transport.get_protocol() is protocol is transport._protocol
            assert transport.is_reading()
            assert not transport.is_closing()
            peer.sendall(b"abc")
            await until(lambda: len(protocol.calls) == 2)
            transport.write(b"def")
            await asyncio.sleep(0)
            assert peer.recv(10) == b"def"
            peer.shutdown(socket.SHUT_WR)
            await protocol.lost
            assert protocol.calls == ["made", b"abc", "eof", ("lost", None)]
            assert transport.is_closing()
            assert transport._sock is None
            assert transport._loop is None
            assert transport.get_protocol() is None

    run(main())


def test_the_waiter_is_done_after_connection_made(run: Any) -> None:
    async def main() -> None:
        order: list[str] = []

        class Protocol(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                order.append("made")
                peer.sendall(b"early")

            def data_received(self, data: bytes) -> None:
                order.append("data")

        ours, peer = socket.socketpair()
        transport, protocol = await asyncio.get_running_loop().create_connection(Protocol, sock=ours)
        order.append("connected")
        await until(lambda: "data" in order)
        assert order == ["made", "connected", "data"]
        peer.close()
        transport.close()
        await protocol.lost

    run(main())


def test_writes_arrive_together_and_in_order(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, _protocol, peer):
            changing = bytearray(b"two ")
            transport.write(b"one ")
            transport.write(changing)
            changing[:] = b"bad!"
            transport.write(memoryview(b"xthreex")[1:-1])
            transport.writelines([b" four ", bytearray(b"five"), memoryview(b" six")])
            transport.write(b"")
            transport.writelines([])
            await asyncio.sleep(0)
            assert peer.recv(100) == b"one two three four five six"

    run(main())


def test_what_looks_at_the_buffer_finds_it_sent(run: Any) -> None:
    """asyncio sends at once; no program may notice that Rondel does not."""

    async def main() -> None:
        looks: list[Callable[[Any], Any]] = [
            lambda transport: transport.get_write_buffer_size(),
            lambda transport: transport.set_write_buffer_limits(100),
            lambda transport: transport._buffer,
        ]
        for look in looks:
            async with pair() as (transport, _protocol, peer):
                peer.setblocking(False)
                transport.write(b"now")
                assert not look(transport)
                assert peer.recv(10) == b"now"
        for end in ("close", "abort", "write_eof"):
            async with pair() as (transport, _protocol, peer):
                transport.write(b"before the end")
                getattr(transport, end)()
                assert peer.recv(100) == b"before the end"

    run(main())


def test_write_checks_its_argument(run: Any) -> None:
    # The message differs between releases.
    constants = asyncio.selector_events._SelectorSocketTransport.write.__code__.co_consts
    kinds = "bytes, bytearray, or memoryview object" if "memoryview" in str(constants) else "bytes-like object"

    async def main() -> None:
        async with pair() as (transport, protocol, _peer):
            for wrong, name in (("text", "str"), (None, "NoneType"), ([b"x"], "list")):
                with pytest.raises(TypeError) as error:
                    transport.write(wrong)
                assert str(error.value) == f"data argument must be a {kinds}, not '{name}'"
            transport.write_eof()
            assert transport.can_write_eof()
            with pytest.raises(RuntimeError, match=r"^Cannot call write\(\) after write_eof\(\)$"):
                transport.write(b"x")
            assert protocol.calls == ["made"]

    run(main())


def test_writelines_checks_its_arguments(impl: Any, run: Any) -> None:
    async def main() -> list[str]:
        texts = []
        async with pair() as (transport, _protocol, peer):
            for wrong in ([b"good", "text"], 5, [None]):
                try:
                    transport.writelines(wrong)
                except TypeError as error:
                    texts.append(str(error))
                else:
                    texts.append("nothing raised")  # later releases ignore empty items, even None
            transport.writelines(iter([b"from ", b"an iterator"]))
            await asyncio.sleep(0)
            # From 3.15 on the items before the wrong one are written.
            received = peer.recv(100).decode()
            assert received.endswith("from an iterator")
            texts.append(received)
            peer.close()
            transport.write(b"x")
            assert transport.is_closing()
            transport.writelines([b"x", b"y"])
            transport.close()
        return texts

    async def stock() -> list[str]:
        return await main()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        expected = runner.run(stock())
    assert run(main()) == expected


def test_flow_control(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, protocol, peer):
            peer.setblocking(False)
            assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
            transport.write(bytes(2_000_000))
            assert protocol.calls == ["made", "pause"]
            size = transport.get_write_buffer_size()
            assert 0 < size < 2_000_000
            transport.write(b"more")
            assert transport.get_write_buffer_size() == size + 4
            assert protocol.calls == ["made", "pause"]
            got = 0
            while got < 2_000_004:
                got += len(await asyncio.get_running_loop().sock_recv(peer, 1_000_000))
            await until(lambda: "resume" in protocol.calls)
            assert protocol.calls == ["made", "pause", "resume"]
            assert transport.get_write_buffer_size() == 0

    run(main())


def test_write_buffer_limits(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, protocol, _peer):
            transport.set_write_buffer_limits(high=1000)
            assert transport.get_write_buffer_limits() == (250, 1000)
            transport.set_write_buffer_limits(low=100)
            assert transport.get_write_buffer_limits() == (100, 400)
            for high, low in ((1, 2), (-1, None), (None, -1)):
                with pytest.raises(ValueError, match=r"high \(.*\) must be >= low \(.*\) must be >= 0"):
                    transport.set_write_buffer_limits(high, low)
            transport.set_write_buffer_limits(high=10_000_000)
            transport.write(bytes(2_000_000))
            assert protocol.calls == ["made"]
            transport.set_write_buffer_limits(0)
            assert protocol.calls == ["made", "pause"]

    run(main())


def test_writing_again_while_resuming(run: Any) -> None:
    async def main() -> None:
        class Protocol(Recorder):
            def resume_writing(self) -> None:
                super().resume_writing()
                self.transport.write(b"encore")

        async with pair(Protocol) as (transport, protocol, peer):
            peer.setblocking(False)
            transport.write(bytes(1_000_000))
            got = b""
            while len(got) < 1_000_006:
                got += await asyncio.get_running_loop().sock_recv(peer, 1_000_000)
            assert got[1_000_000:] == b"encore"
            assert protocol.calls == ["made", "pause", "resume"]
            assert transport.get_write_buffer_size() == 0
            assert "write=<idle" in repr(transport)

    run(main())


def test_failing_flow_control_is_reported(run: Any, problems: list[Any]) -> None:
    async def main() -> None:
        class Protocol(Recorder):
            def pause_writing(self) -> None:
                raise KeyError("pause")

            def resume_writing(self) -> None:
                raise KeyError("resume")

        async with pair(Protocol) as (transport, protocol, peer):
            peer.setblocking(False)
            transport.write(bytes(1_000_000))
            got = 0
            while got < 1_000_000:
                got += len(await asyncio.get_running_loop().sock_recv(peer, 1_000_000))
            await until(lambda: len(problems) == 2)
            assert not transport.is_closing()
            for problem, name in zip(problems, ("pause", "resume"), strict=True):
                assert problem["message"] == f"protocol.{name}_writing() failed"
                assert problem["transport"] is transport
                assert problem["protocol"] is protocol

    run(main())


def test_half_closed(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, protocol, peer):
            protocol.keep_open = True
            peer.sendall(b"last")
            peer.shutdown(socket.SHUT_WR)
            await until(lambda: "eof" in protocol.calls)
            await turns()
            assert not transport.is_closing()
            transport.write(b"answer")
            transport.write_eof()
            assert peer.recv(100) == b"answer"
            assert peer.recv(100) == b""
            transport.close()
            await protocol.lost
            assert protocol.calls == ["made", b"last", "eof", ("lost", None)]

    run(main())


@pytest.mark.parametrize("end", ["close", "write_eof", "abort"])
def test_the_other_end_on_the_loop_sees_the_end_in_the_next_turn(run: Any, end: str) -> None:
    """Also while there are always callbacks to run."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        turn = 0
        seen: list[int] = []

        def tick() -> None:
            nonlocal turn
            turn += 1
            if len(seen) < 2:
                loop.call_soon(tick)

        class Ours(asyncio.Protocol):
            def connection_lost(self, exc: Any) -> None:
                if end != "write_eof":
                    seen.append(turn)

        class Theirs(asyncio.Protocol):
            def eof_received(self) -> None:
                seen.append(turn)

        ours, theirs = socket.socketpair()
        transport, _ = await loop.create_connection(Ours, sock=ours)
        other, _ = await loop.create_connection(Theirs, sock=theirs)
        tick()
        for _ in range(3):
            await asyncio.sleep(0)
        getattr(transport, end)()
        if end == "write_eof":
            seen.append(turn)
        await until(lambda: len(seen) == 2)
        assert seen[1] - seen[0] == 1
        transport.close()
        other.close()
        await asyncio.sleep(0)

    run(main())


def test_eof_and_close_follow_what_is_still_queued(run: Any) -> None:
    async def main() -> None:
        for end in ("write_eof", "close"):
            async with pair() as (transport, protocol, peer):
                peer.setblocking(False)
                transport.write(bytes(1_000_000))
                getattr(transport, end)()
                assert transport.is_closing() == (end == "close")
                got = 0
                while data := await asyncio.get_running_loop().sock_recv(peer, 1_000_000):
                    got += len(data)
                assert got == 1_000_000
                if end == "write_eof":
                    transport.close()
                await protocol.lost

    run(main())


def test_pausing_reading(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, protocol, peer):
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            peer.sendall(b"abc")
            await turns(5)
            assert protocol.calls == ["made"]
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()
            await until(lambda: len(protocol.calls) == 2)
            transport.close()
            assert not transport.is_reading()
            transport.resume_reading()
            transport.pause_reading()

    run(main())


def test_pausing_inside_data_received(run: Any) -> None:
    async def main() -> None:
        class Protocol(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                self.transport.pause_reading()

        async with pair(Protocol) as (transport, protocol, peer):
            peer.sendall(bytes(60_000))
            for _ in range(3):
                await until(lambda: not transport.is_reading())
                before = len(protocol.calls)
                await turns(5)
                assert len(protocol.calls) == before
                peer.sendall(bytes(60_000))
                transport.resume_reading()

    run(main())


def test_abort_throws_away_what_waits(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, protocol, _peer):
            transport.write(bytes(1_000_000))
            transport.abort()
            assert transport.get_write_buffer_size() == 0
            assert transport.is_closing()
            assert protocol.calls == ["made", "pause"]
            await protocol.lost
            assert protocol.calls == ["made", "pause", ("lost", None)]

    run(main())


def test_writing_to_a_lost_connection(run: Any, caplog: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, protocol, peer):
            peer.close()
            transport.write(b"x")
            assert transport.is_closing()
            assert transport._conn_lost == 1
            for _ in range(6):
                transport.write(b"x")
            assert [record.message for record in caplog.records] == ["socket.send() raised exception."] * 2
            await protocol.lost
            assert protocol.calls == ["made", ("lost", BrokenPipeError)]
            transport.write(b"even now")
            transport.close()
            transport.abort()

    caplog.set_level(logging.WARNING, "asyncio")
    run(main())


def test_a_reset(run: Any) -> None:
    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, *listener.getsockname())
        peer, _ = listener.accept()
        listener.close()
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        address = transport.get_extra_info("peername")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        await protocol.lost
        assert protocol.calls == ["made", ("lost", ConnectionResetError)]
        assert transport.get_extra_info("peername") == address

    run(main())


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
def test_a_failing_protocol_is_reported_and_closed(run: Any, problems: list[Any], method: str) -> None:
    async def main() -> None:
        def fail(*_args: Any) -> None:
            raise ZeroDivisionError("in the protocol")

        async with pair() as (transport, protocol, peer):
            setattr(protocol, method, fail)
            peer.sendall(b"x")
            peer.shutdown(socket.SHUT_WR)
            await protocol.lost
            assert protocol.calls[-1] == ("lost", ZeroDivisionError)
            (problem,) = problems
            assert problem["message"] == f"Fatal error: protocol.{method}() call failed."
            assert set(problem) == {"message", "exception", "transport", "protocol"}
            assert problem["transport"] is transport
            assert problem["protocol"] is protocol

    run(main())


def test_a_failing_connection_made_is_reported(run: Any, problems: list[Any]) -> None:
    async def main() -> None:
        class Protocol(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                raise ZeroDivisionError("in connection_made")

        async with pair(Protocol) as (transport, protocol, peer):
            assert not transport.is_closing()
            peer.sendall(b"still read")
            await until(lambda: b"still read" in protocol.calls)
        (problem,) = problems
        assert problem["message"].startswith("Exception in callback ")
        assert "connection_made" in problem["message"]
        assert "handle" in problem

    run(main())


class Buffered(asyncio.BufferedProtocol):
    def __init__(self, size: int = 10) -> None:
        self.buffer = bytearray(size)
        self.got = b""
        self.hints: list[int] = []
        self.lost = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> Any:
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.got += self.buffer[:nbytes]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


def test_buffered_protocol(run: Any) -> None:
    async def main() -> None:
        async with pair(Buffered) as (_transport, protocol, peer):
            data = bytes(range(200))
            peer.sendall(data)
            await until(lambda: len(protocol.got) == 200)
            assert protocol.got == data
            assert set(protocol.hints) == {-1}
            peer.close()
            assert await protocol.lost is None

    run(main())


@pytest.mark.parametrize("failure", ["empty", "get_buffer", "buffer_updated"])
def test_failing_buffered_protocols(run: Any, problems: list[Any], failure: str) -> None:
    async def main() -> None:
        class Protocol(Buffered):
            def get_buffer(self, sizehint: int) -> Any:
                if failure == "get_buffer":
                    raise KeyError("get_buffer")
                return bytearray(0 if failure == "empty" else 10)

            def buffer_updated(self, nbytes: int) -> None:
                raise KeyError("buffer_updated")

        async with pair(Protocol) as (_transport, protocol, peer):
            peer.sendall(b"x")
            exception = await protocol.lost
            (problem,) = problems
            assert problem["exception"] is exception
            method = "buffer_updated" if failure == "buffer_updated" else "get_buffer"
            assert problem["message"] == f"Fatal error: protocol.{method}() call failed."
            if failure == "empty":
                assert type(exception) is RuntimeError
                assert str(exception) == "get_buffer() returned an empty buffer"

    run(main())


def test_changing_the_protocol(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, first, peer):
            peer.sendall(b"first")
            await until(lambda: b"first" in first.calls)
            second = Buffered()
            transport.set_protocol(second)
            assert transport.get_protocol() is second
            peer.sendall(b"second")
            await until(lambda: second.got == b"second")
            third = Recorder()
            transport.set_protocol(third)
            peer.sendall(b"third")
            await until(lambda: b"third" in third.calls)
            assert first.calls == ["made", b"first"]
            transport.close()
            await third.lost
            first.lost.set_result(None)

    run(main())


def test_extra_info(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Any] = []

        class Protocol(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                made.append(self)

        server = await loop.create_server(Protocol, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        client, protocol = await loop.create_connection(Recorder, *address)
        await until(lambda: made)
        accepted = made[0].transport
        assert client.get_extra_info("peername") == accepted.get_extra_info("sockname") == address
        assert client.get_extra_info("sockname") == accepted.get_extra_info("peername")
        for transport in (client, accepted):
            info = transport.get_extra_info("socket")
            assert isinstance(info, asyncio.trsock.TransportSocket)
            assert info is transport.get_extra_info("socket")
            assert info.fileno() == transport._sock_fd == transport._sock.fileno()
            assert transport._sock.gettimeout() == 0
            assert info.family == socket.AF_INET
            assert transport.get_extra_info("nonsense") is None
            assert transport.get_extra_info("nonsense", 5) == 5
            assert {"socket", "sockname", "peername"} <= set(transport._extra)
        known = [
            transport.get_extra_info(name) for transport in (client, accepted) for name in ("peername", "sockname")
        ]
        client.close()
        await protocol.lost
        await made[0].lost
        again = [
            transport.get_extra_info(name) for transport in (client, accepted) for name in ("peername", "sockname")
        ]
        assert again == known
        assert client.get_extra_info("socket").fileno() == -1
        server.close()
        await server.wait_closed()

    run(main())


def test_addresses_are_known_after_the_end_though_nobody_asked_before(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Any] = []

        def factory() -> Recorder:
            made.append(Recorder())
            return made[-1]

        for host in ("127.0.0.1", "::1"):
            try:
                server = await loop.create_server(factory, host, 0)
            except OSError:
                assert host == "::1"  # no IPv6 here
                continue
            address = server.sockets[0].getsockname()
            client = socket.create_connection(address[:2])
            name = client.getsockname()
            client.close()
            await until(lambda: made)
            await made[0].lost
            transport = made.pop().transport
            assert transport.get_extra_info("peername") == name
            assert transport.get_extra_info("sockname") == address
            assert transport.get_extra_info("socket").fileno() == -1
            server.close()
            await server.wait_closed()

    run(main())


def test_attributes_can_be_put_on_the_instance(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, _protocol, peer):
            written: list[bytes] = []
            transport.write = written.append
            transport.mark = "mine"
            transport.write(b"caught")
            assert written == [b"caught"]
            assert transport.mark == "mine"
            del transport.write
            transport.write(b"sent")
            await asyncio.sleep(0)
            assert peer.recv(10) == b"sent"
            assert weakref.ref(transport)() is transport

    run(main())


def test_a_writer_honours_a_replaced_write(aio: Any, run: Any) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        _reader, writer = await aio.open_connection(sock=ours)
        written: list[bytes] = []
        writer.transport.write = written.append
        writer.write(b"caught")
        await writer.drain()
        assert written == [b"caught"]
        theirs.close()
        writer.close()
        await writer.wait_closed()

    run(main())


def test_repr(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, protocol, _peer):
            name = type(transport).__name__
            fd = transport._sock_fd
            assert repr(transport) == f"<{name} fd={fd} read=polling write=<idle, bufsize=0>>"
            transport.pause_reading()
            assert repr(transport) == f"<{name} fd={fd} read=idle write=<idle, bufsize=0>>"
            transport.write(bytes(1_000_000))
            size = transport.get_write_buffer_size()
            assert repr(transport) == f"<{name} fd={fd} read=idle write=<polling, bufsize={size}>>"
            transport.abort()
            assert repr(transport) == f"<{name} closing fd={fd} read=idle write=<idle, bufsize=0>>"
            await protocol.lost
            assert repr(transport) == f"<{name} closed fd={fd}>"

    # Stock asyncio's repr asks the loop's selector, and Rondel's loop has one for that.
    run(main())


def test_context_variables(run: Any) -> None:
    async def main() -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
        seen: list[str] = []

        class Protocol(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                seen.append(variable.get())
                variable.set("set in connection_made")

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                seen.append(variable.get())
                variable.set(f"set at {data!r}")

            def connection_lost(self, exc: Exception | None) -> None:
                seen.append(variable.get())
                super().connection_lost(exc)

        variable.set("outer")
        async with pair(Protocol) as (transport, protocol, peer):
            for data in (b"1", b"2"):
                peer.sendall(data)
                await until(lambda data=data: data in protocol.calls)
            variable.set("at the end")
            transport.close()
            await protocol.lost
        if sys.version_info < (3, 15):
            assert seen == ["outer", "outer", "set at b'1'", "at the end"]
        else:
            assert seen == ["outer", "set in connection_made", "set at b'1'", "set at b'2'"]

    run(main())


def test_accepting_in_the_context_of_the_server(run: Any) -> None:
    async def main() -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
        seen: list[str] = []

        class Protocol(Recorder):
            def __init__(self) -> None:
                super().__init__()
                seen.append(variable.get())
                variable.set("changed in the factory")

        variable.set("server")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Protocol, "127.0.0.1", 0)
        variable.set("later")
        for _ in range(2):
            client = socket.create_connection(server.sockets[0].getsockname())
            count = len(seen)
            await until(lambda count=count: len(seen) > count)
            client.close()
        await turns(6)
        server.close()
        await server.wait_closed()
        assert seen == ["server", "server"]

    run(main())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_failing_factory_closes_the_connection(run: Any, impl: Any, debug: bool, problems: Any) -> None:
    if debug and not impl.is_rondel:
        pytest.skip("asyncio's report keeps the socket alive")

    async def main() -> None:
        def factory() -> Any:
            raise ZeroDivisionError("in the factory")

        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        client.setblocking(False)
        assert await loop.sock_recv(client, 1) == b""
        client.close()
        server.close()
        await server.wait_closed()

    run(main())


OUT_OF_DESCRIPTORS = """
import asyncio, resource, socket, sys
{imports}
from asyncio import constants
constants.ACCEPT_RETRY_DELAY = 0.05

async def main():
    reports = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(context))

    async def handle(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    client.sendall(b"hello\\n")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = socket.socket()
    lowest = probe.fileno()
    probe.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limit[1]))
    while not reports:
        await asyncio.sleep(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    report = reports[0]
    print(report["message"], report["exception"].errno, type(report["socket"]).__name__)
    client.setblocking(False)
    print(await loop.sock_recv(client, 100))
    client.close()
    server.close()
    await server.wait_closed()

{start}
"""


def test_out_of_descriptors(impl: Any) -> None:
    """In a child process, whose descriptors can be used up."""
    if impl.name == "asyncio":
        parts = {"imports": "", "start": "asyncio.run(main())"}
    elif impl.name == "rondel":
        parts = {"imports": "import rondel; rondel.install()", "start": "asyncio.run(main())"}
    else:
        parts = {"imports": "import rondel", "start": "asyncio.run(main(), loop_factory=rondel.new_event_loop)"}
        if sys.version_info < (3, 12):
            parts["start"] = "asyncio.Runner(loop_factory=rondel.new_event_loop).run(main())"
    command = [sys.executable, "-c", OUT_OF_DESCRIPTORS.format(**parts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ)
    assert done.stdout == "socket.accept() out of system resource 24 TransportSocket\nb'hello\\n'\n", done.stderr


def test_closing_the_server_while_connections_wait(impl: Any, run: Any, problems: Any) -> None:
    if not impl.is_rondel:
        pytest.skip("asyncio's own accepting leaves these sockets to the garbage collector")

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def factory() -> asyncio.Protocol:
            server.close()
            return asyncio.Protocol()

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for client in [socket.create_connection(address) for _ in range(5)]:
            client.setblocking(False)
            try:
                assert await loop.sock_recv(client, 1) == b""
            except ConnectionResetError:
                pass
            client.close()
        await server.wait_closed()

    run(main())


def test_two_transports_for_one_descriptor_are_refused(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with pair() as (transport, _protocol, _peer):
            fd = transport._sock_fd
            for method in ("add_reader", "add_writer"):
                with pytest.raises(RuntimeError, match=f"File descriptor {fd} is used by transport"):
                    getattr(loop, method)(fd, print)
            for method in ("remove_reader", "remove_writer"):
                with pytest.raises(RuntimeError, match=f"File descriptor {fd} is used by transport"):
                    getattr(loop, method)(fd)

    run(main())


def test_garbage_is_collected(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, protocol, _peer):
            protocol.cycle = transport
            transport.cycle = protocol
            alive = weakref.ref(transport), weakref.ref(protocol)
            transport.close()
            await protocol.lost
        del transport, protocol, _peer
        for _ in range(10):
            await asyncio.sleep(0)
            gc.collect()
        assert [ref() for ref in alive] == [None, None]

    run(main())


def test_an_unclosed_transport_warns_and_closes(run: Any, recwarn: Any) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, _protocol = await loop.create_connection(asyncio.Protocol, sock=ours)
        transport.pause_reading()  # or the loop keeps it alive
        del ours
        text = f"unclosed transport {transport!r}"
        del transport, _protocol
        gc.collect()
        assert text in [str(warning.message) for warning in recwarn.list]
        assert theirs.recv(1) == b""
        theirs.close()

    run(main())


def test_writes_leave_though_the_step_ends_the_run(aio: Any, impl: Any) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    runner = asyncio.Runner(loop_factory=impl.new_event_loop)
    loop = runner.get_loop()

    async def connect() -> Any:
        return (await loop.create_connection(asyncio.Protocol, sock=ours))[0]

    transport = runner.run(connect())

    def step() -> None:
        transport.write(b"written")
        raise KeyboardInterrupt

    loop.call_soon(step)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert theirs.recv(10) == b"written"
    transport.write(b"while nothing runs")
    assert theirs.recv(100) == b"while nothing runs"
    theirs.close()
    transport.close()
    runner.close()


def test_writes_of_other_threads_and_of_signal_handlers_leave_at_once(run: Any) -> None:
    async def main() -> None:
        async with pair() as (transport, _protocol, peer):
            peer.setblocking(False)
            loop = asyncio.get_running_loop()
            # In a thread, while the loop only waits for this.
            await loop.run_in_executor(None, transport.write, b"thread")
            assert await loop.sock_recv(peer, 100) == b"thread"
            before = signal.signal(signal.SIGALRM, lambda *_: transport.write(b"signal"))
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                assert await asyncio.wait_for(loop.sock_recv(peer, 100), 10) == b"signal"
            finally:
                signal.signal(signal.SIGALRM, before)

    run(main())


@pytest.mark.parametrize("way", ["connected", "accepted"])
def test_a_transport_left_open_where_warnings_are_errors(impl, way):
    """The warning is reported like an exception in a finalizer, and the descriptor is closed."""
    program = f"""
import asyncio, gc, os, socket, sys
import {"rondel" if impl.is_rondel else "asyncio"} as module
new_event_loop = {"module.new_event_loop" if impl.is_rondel else "asyncio.SelectorEventLoop"}
reported = []
sys.unraisablehook = lambda what: reported.append(what.exc_type.__name__)
loop = new_event_loop()
made = []

async def main():
    if {way == "connected"!r}:
        left, right = socket.socketpair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
        right.close()
    else:
        class Kept(asyncio.Protocol):
            def connection_made(self, transport):
                made.append(transport)
        server = await loop.create_server(Kept, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        while not made:
            await asyncio.sleep(0.001)
        transport = made.pop()
        server.close()
        client.close()
    transport.pause_reading()
    return transport.get_extra_info("socket").fileno()

fd = loop.run_until_complete(main())
loop.close()
del loop
gc.collect()
try:
    os.fstat(fd)
    left_open = True
except OSError:
    left_open = False
print(sorted(set(reported)), left_open)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program], capture_output=True, text=True, timeout=30
    )
    assert "SystemError" not in done.stderr, done.stderr
    assert done.stdout == "['ResourceWarning'] False\n", (done.stdout, done.stderr)
