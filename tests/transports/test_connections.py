"""Connections in trouble: wrong arguments, protocols that raise, limits, resets, no descriptors."""

import array
import asyncio
import contextlib
import errno
import fractions
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest


class Recorder(asyncio.Protocol):
    """Records its calls; `raises` maps methods to the exceptions they raise."""

    def __init__(self, **raises: BaseException) -> None:
        self.calls: list[Any] = []
        self.raises = raises
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()

    def _called(self, name: str, *details: Any) -> None:
        self.calls.append((name, *details))
        if name in self.raises:
            raise self.raises[name]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._called("made")

    def data_received(self, data: bytes) -> None:
        self._called("data", data)

    def eof_received(self) -> None:
        self._called("eof")

    def pause_writing(self) -> None:
        self._called("pause")

    def resume_writing(self) -> None:
        self._called("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(exc)
        self._called("lost", type(exc))


class Buffered(asyncio.BufferedProtocol):
    """A buffered protocol whose buffer comes from the test."""

    def __init__(
        self, buffer: Callable[[], Any] = lambda: bytearray(4), updated: Callable[[], None] | None = None
    ) -> None:
        self.calls: list[Any] = []
        self.buffer: Any = None
        self._make, self._updated = buffer, updated
        self.lost = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> Any:
        assert sizehint == -1
        self.buffer = self._make()
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.calls.append(bytes(self.buffer[:nbytes]))
        if self._updated is not None:
            self._updated()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0.001)  # the loop has to poll in between


@contextlib.asynccontextmanager
async def pair(protocol: Any) -> Any:
    """Return a transport with that protocol, and its peer, a plain socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
        try:
            yield transport, theirs
        finally:
            transport.abort()
            await turns()
            assert ours.fileno() == -1


# ---- protocols that raise ----


@pytest.mark.parametrize(
    "error", [ValueError("why"), OSError(errno.EIO, "why"), asyncio.CancelledError("why")], ids=repr
)
@pytest.mark.parametrize("where", ["made", "data", "eof", "pause", "resume", "lost"])
def test_a_protocol_that_raises(run, problems, where, error):
    """The error is reported. An error in a reading method closes the connection."""

    async def main():
        protocol = Recorder(**{where: error})
        async with pair(protocol) as (transport, theirs):
            transport.set_write_buffer_limits(100)
            await turns()
            theirs.send(b"x")
            await turns()
            if not transport.is_closing():
                transport.write(bytes(1_000_000))
                received = 0
                while received < 1_000_000:
                    try:
                        received += len(theirs.recv(1_000_000))
                    except BlockingIOError:
                        await asyncio.sleep(0.001)
            await turns()
            theirs.close()
            await protocol.lost
            await turns()
        return protocol.calls

    calls = run(main())
    names = [call[0] for call in calls]
    is_quiet = isinstance(error, OSError) and where in ("data", "eof")
    messages = {
        "made": "Exception in callback",
        "data": "Fatal error: protocol.data_received() call failed.",
        "eof": "Fatal error: protocol.eof_received() call failed.",
        "pause": "protocol.pause_writing() failed",
        "resume": "protocol.resume_writing() failed",
        "lost": "Exception in callback",
    }
    assert [context["exception"] for context in problems] == ([] if is_quiet else [error])
    for context in problems:
        assert context["message"].startswith(messages[where])
    if where == "data":
        assert names == ["made", "data", "lost"]
    else:
        assert names == ["made", "data", "pause", "resume", "eof", "lost"]
    failed = type(error) if where in ("data", "eof") else type(None)
    assert calls[-1] == ("lost", failed)


@pytest.mark.one_mode  # in debug mode asyncio's error report keeps the socket open
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_factory_that_raises(run):
    """The client's call raises the error; a server closes the connection."""

    async def main():
        loop = asyncio.get_running_loop()

        def fail():
            raise ValueError("no protocol today")

        server = await loop.create_server(fail, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ValueError, match="no protocol today"):
            await loop.create_connection(fail, *address)
        server.close()
        await server.wait_closed()

    run(main())


# ---- buffered protocols ----


@pytest.mark.parametrize(
    ("buffer", "error", "text"),
    [
        (bytearray, RuntimeError, "get_buffer() returned an empty buffer"),
        (lambda: None, TypeError, "object of type 'NoneType' has no len()"),
        (lambda: 1 / 0, ZeroDivisionError, "division by zero"),
        (lambda: b"read-only", TypeError, "recv_into() argument 1 must be read-write bytes-like object, not bytes"),
        (
            lambda: memoryview(bytearray(8))[::2],
            TypeError,
            "recv_into() argument 1 must be read-write bytes-like object, not memoryview",
        ),
    ],
    ids=["empty", "None", "raises", "read-only", "scattered"],
)
def test_buffers_that_cannot_be_filled(run, problems, buffer, error, text):
    async def main():
        protocol = Buffered(buffer)
        async with pair(protocol) as (_, theirs):
            theirs.send(b"0123456789")
            return await protocol.lost

    lost = run(main())
    assert type(lost) is error
    assert str(lost) == text
    (context,) = problems
    assert context["exception"] is lost
    by_us = context["message"] == "Fatal error: protocol.get_buffer() call failed."
    assert by_us or context["message"] == "Fatal read error on socket transport"


def test_a_buffer_of_another_type_is_filled(run):
    async def main():
        numbers = array.array("H", [0, 0])
        protocol = Buffered(lambda: numbers)
        async with pair(protocol) as (_, theirs):
            theirs.send(struct.pack("HH", 7, 9))
            await turns()
        assert list(numbers) == [7, 9]

    run(main())


def test_a_buffered_protocol_that_raises_when_updated(run, problems):
    async def main():
        def fail():
            raise ValueError("updated")

        protocol = Buffered(updated=fail)
        async with pair(protocol) as (_, theirs):
            theirs.send(b"x")
            assert isinstance(await protocol.lost, ValueError)

    run(main())
    assert [context["message"] for context in problems] == ["Fatal error: protocol.buffer_updated() call failed."]


@pytest.mark.parametrize("first", ["buffered", "plain"])
def test_protocols_change_while_data_waits(run, first):
    """Each byte goes to the protocol that is set when it is read, in order."""

    async def main():
        plain, buffered = Recorder(), Buffered()
        begin, then = (buffered, plain) if first == "buffered" else (plain, buffered)
        async with pair(begin) as (transport, theirs):
            assert transport.get_protocol() is begin
            theirs.send(b"one")
            await turns()
            theirs.send(b"two-and-more")
            transport.set_protocol(then)
            assert transport.get_protocol() is then
            await turns()
            theirs.send(b"three")
            transport.set_protocol(begin)
            await turns()
        received = [b"".join(call[1] for call in plain.calls if call[0] == "data"), b"".join(buffered.calls)]
        if first == "buffered":
            received.reverse()
        return received

    assert run(main()) == [b"onethree", b"two-and-more"]


def test_a_protocol_that_hands_over_while_it_is_told(run):
    async def main():
        heirs = []

        class Handing(Recorder):
            def data_received(self, data):
                super().data_received(data)
                heirs.append(Buffered())
                self.transport.set_protocol(heirs[0])

        protocol = Handing()
        async with pair(protocol) as (_, theirs):
            theirs.send(b"header")
            await turns()
            theirs.send(b"the rest")
            await turns()
        assert protocol.calls == [("made",), ("data", b"header")]
        assert b"".join(heirs[0].calls) == b"the rest"

    run(main())


# ---- writing ----


def test_limits_of_any_kind(run):
    async def main():
        async with pair(Recorder()) as (transport, _):
            get, set_limits = transport.get_write_buffer_limits, transport.set_write_buffer_limits
            for high, low, expected in [
                (None, None, (16384, 65536)),
                (1000, None, (250, 1000)),
                (None, 10, (10, 40)),
                (0, None, (0, 0)),
                (10.0, 2.0, (2, 10)),
                (True, False, (0, 1)),
            ]:
                set_limits(high, low)
                assert get() == expected
            set_limits(2**80)
            assert get()[1] >= 2**62
            set_limits(high=float("inf"), low=1)
            transport.write(bytes(10_000_000))
            for high, low, error, text in [
                (1, 2, ValueError, "high (1) must be >= low (2) must be >= 0"),
                (-1, None, ValueError, "high (-1) must be >= low (-1) must be >= 0"),
                (None, -1, ValueError, "high (-4) must be >= low (-1) must be >= 0"),
                ("x", None, TypeError, "unsupported operand type(s) for //: 'str' and 'int'"),
                (float("nan"), 1, ValueError, "high (nan) must be >= low (1) must be >= 0"),
            ]:
                before = get()
                with pytest.raises(error) as caught:
                    set_limits(high, low)
                assert str(caught.value) in (text, text.replace("(", "").replace(")", "")) or error is ValueError
                assert get() == before

    run(main())


@pytest.mark.parametrize("kind", ["socket", "pipe", "datagram"])
def test_limits_are_given_back_as_they_were_set(run, kind):
    class Oracle(asyncio.transports._FlowControlMixin):
        def get_write_buffer_size(self):
            return 0

    async def main():
        loop = asyncio.get_running_loop()
        right = Oracle(None, loop)
        async with contextlib.AsyncExitStack() as stack:
            if kind == "socket":
                transport, _ = await stack.enter_async_context(pair(Recorder()))
            elif kind == "pipe":
                reading, writing = os.pipe()
                stack.callback(os.close, reading)
                file = stack.enter_context(os.fdopen(writing, "wb", 0))
                transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, file)
            else:
                transport, _ = await loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
                )
            stack.callback(transport.close)
            for high, low in [
                (1.5, None),
                (None, 2.5),
                (2**80, None),
                (10**400, 3),
                (10, 2.5),
                (float("inf"), 1),
                (fractions.Fraction(7, 2), None),
                (5, 1),
                (1.5, 2),
                ("x", None),
                (None, "x"),
                (None, None),
            ]:
                errors = []
                for each in right, transport:
                    try:
                        each.set_write_buffer_limits(high, low)
                    except (TypeError, ValueError) as error:
                        errors.append(repr(error))
                assert errors == [] or len(set(errors)) == 1 < len(errors)
                limits = transport.get_write_buffer_limits()
                assert repr(limits) == repr(right.get_write_buffer_limits())
                assert repr((transport._low_water, transport._high_water)) == repr(limits)
        await asyncio.sleep(0)

    run(main())


def test_what_cannot_be_sent(run, problems):
    """Sending a non-contiguous view fails, which closes the connection, like in asyncio."""

    async def main():
        protocol = Recorder()
        async with pair(protocol) as (transport, theirs):
            transport.write(b"before")
            transport.write(memoryview(b"abcdef")[::2])
            assert isinstance(await protocol.lost, BufferError)
            assert theirs.recv(100) == b"before"

    run(main())
    assert [context["message"] for context in problems] == ["Fatal write error on socket transport"]


def test_after_the_end(run, caplog):
    """No method of a closed transport raises."""

    async def main():
        protocol = Recorder()
        async with pair(protocol) as (transport, _):
            transport.close()
            await protocol.lost
            await turns()
            transport.close()
            transport.abort()
            assert transport.is_closing()
            assert not transport.is_reading()
            transport.pause_reading()
            transport.resume_reading()
            transport.write_eof()
            transport.set_write_buffer_limits(10)
            assert transport.get_write_buffer_limits() == (2, 10)
            assert transport.get_write_buffer_size() == 0
            assert transport.get_extra_info("peername") is not None
            assert transport.get_extra_info("socket").fileno() == -1
            assert transport.get_extra_info("nothing", 7) == 7
            assert "closed" in repr(transport)

    run(main())


def test_pausing_twice(run):
    async def main():
        protocol = Recorder()
        async with pair(protocol) as (transport, theirs):
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            theirs.send(b"x")
            await turns()
            assert protocol.calls == [("made",)]
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()
            await turns()
            assert protocol.calls == [("made",), ("data", b"x")]

    run(main())


def reset(sock: socket.socket) -> None:
    """Close a TCP socket so that its peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("when", ["at once", "before reading", "while writing", "after our eof", "while paused"])
def test_resets(run, when):
    """A reset ends a connection in any state once, with the error, and nothing is reported."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        protocol = Recorder()
        if when == "at once":
            reset(accepted)
        transport, _ = await loop.create_connection(lambda: protocol, sock=client)
        if when == "before reading":
            reset(accepted)
        elif when == "while writing":
            transport.write(bytes(20_000_000))
            await turns()
            reset(accepted)
        elif when == "after our eof":
            transport.write_eof()
            await turns()
            reset(accepted)
        elif when == "while paused":
            transport.pause_reading()
            reset(accepted)
            await turns()
            assert not protocol.lost.done()
            transport.resume_reading()
        error = await protocol.lost
        assert isinstance(error, ConnectionError), error
        assert [call[0] for call in protocol.calls if call[0] in ("made", "lost")] == ["made", "lost"]
        await turns()
        assert client.fileno() == -1

    run(main())


@pytest.mark.parametrize("what", ["client", "server"])
def test_without_descriptors(run, problems, what):
    """With EMFILE connecting fails; a server retries later."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
        try:
            while True:
                try:
                    held.append(os.dup(0))
                except OSError:
                    break
            with pytest.raises(OSError) as caught:
                await loop.create_connection(Recorder, *address)
            assert caught.value.errno == errno.EMFILE
            if what == "server":
                os.close(held.pop())
                with socket.socket() as client:
                    client.connect(address)
                    await turns()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in held:
                os.close(number)
        server.close()
        await server.wait_closed()
        return len(problems)

    count = run(main())
    assert bool(count) is (what == "server")
    for context in problems:
        assert context["message"] == "socket.accept() out of system resource"
        assert context["exception"].errno == errno.EMFILE


# ---- wrong arguments ----

SSL_ONLY = [("ssl_handshake_timeout", 1), ("ssl_shutdown_timeout", 1)]


def test_mistakes_of_a_client(run):
    async def main():
        loop = asyncio.get_running_loop()

        async def refused(error, text, *args, **options):
            with pytest.raises(error) as caught:
                await loop.create_connection(asyncio.Protocol, *args, **options)
            assert str(caught.value) == text

        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            await refused(ValueError, "host and port was not specified and no sock specified")
            text = "host/port and sock can not be specified at the same time"
            await refused(ValueError, text, "127.0.0.1", 1, sock=stream)
            text = "server_hostname is only meaningful with ssl"
            await refused(ValueError, text, "127.0.0.1", 1, server_hostname="x")
            text = "You must set server_hostname when using ssl without a host"
            await refused(ValueError, text, ssl=True, sock=stream)
            await refused(ValueError, f"A Stream Socket was expected, got {datagram!r}", sock=datagram)
            for name, value in SSL_ONLY:
                text = f"{name} is only meaningful with ssl"
                await refused(ValueError, text, "127.0.0.1", 1, **{name: value})

    run(main())


def test_mistakes_of_a_server(run):
    async def main():
        loop = asyncio.get_running_loop()

        async def refused(error, text, *args, **options):
            with pytest.raises(error) as caught:
                await loop.create_server(asyncio.Protocol, *args, **options)
            assert str(caught.value) == text

        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            await refused(ValueError, "Neither host/port nor sock were specified")
            text = "host/port and sock can not be specified at the same time"
            await refused(ValueError, text, "127.0.0.1", 0, sock=stream)
            await refused(ValueError, f"A Stream Socket was expected, got {datagram!r}", sock=datagram)
            await refused(TypeError, "ssl argument must be an SSLContext or None", "127.0.0.1", 0, ssl=True)
            for name, value in SSL_ONLY:
                text = f"{name} is only meaningful with ssl"
                await refused(ValueError, text, "127.0.0.1", 0, **{name: value})

    run(main())


def test_mistakes_with_an_accepted_socket(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as datagram:
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.connect_accepted_socket(asyncio.Protocol, datagram)
        with socket.socket() as stream:
            for name, value in SSL_ONLY:
                with pytest.raises(ValueError, match=f"{name} is only meaningful with ssl"):
                    await loop.connect_accepted_socket(asyncio.Protocol, stream, **{name: value})

    run(main())


def test_servers_at_several_places(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, ["127.0.0.1", "127.0.0.2", "127.0.0.1"], 0)
        assert sorted(sock.getsockname()[0] for sock in server.sockets) == ["127.0.0.1", "127.0.0.2"]
        server.close()
        await server.wait_closed()
        assert server.sockets == ()
        first = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, reuse_port=True)
        port = first.sockets[0].getsockname()[1]
        second = await loop.create_server(asyncio.Protocol, "127.0.0.1", port, reuse_port=True)
        for server in (first, second):
            assert server.sockets[0].getsockname()[1] == port
            server.close()
            await server.wait_closed()

    run(main())


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({}, ["::1", "::1", "127.0.0.2"]),
        ({"interleave": 1}, ["::1", "127.0.0.2"]),
        ({"interleave": 2}, ["::1", "::1", "127.0.0.2"]),
        ({"happy_eyeballs_delay": 0.01}, ["::1", "127.0.0.2"]),
        ({"happy_eyeballs_delay": 0.01, "interleave": 2}, ["::1", "::1", "127.0.0.2"]),
    ],
    ids=str,
)
def test_happy_eyeballs(run, monkeypatch, options, order):
    """Which addresses are tried, in which order; the server listens on 127.0.0.2."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.2", 0)
        port = server.sockets[0].getsockname()[1]
        tried = []
        connect = loop.sock_connect

        async def addresses(*_args, **_kwargs):
            six, four = (
                (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "") for family in (socket.AF_INET6, socket.AF_INET)
            )
            return [(*six, ("::1", port, 0, 0))] * 2 + [(*four, ("127.0.0.2", port))] * 2

        async def noted(sock, address):
            tried.append(address[0])
            return await connect(sock, address)

        monkeypatch.setattr(loop, "getaddrinfo", addresses)
        monkeypatch.setattr(loop, "sock_connect", noted)
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, "two.families", port, **options)
        transport.close()
        await protocol.lost
        server.close()
        await turns()
        return tried

    assert run(main()) == order


def test_every_failure_of_a_connect(run, monkeypatch, free_port):
    async def main():
        loop = asyncio.get_running_loop()

        async def addresses(*_args, **_kwargs):
            info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*info, ("127.0.0.1", free_port)), (*info, ("127.0.0.2", free_port))]

        monkeypatch.setattr(loop, "getaddrinfo", addresses)
        if sys.version_info >= (3, 12):
            with pytest.raises(ExceptionGroup) as caught:
                await loop.create_connection(asyncio.Protocol, "h", free_port, all_errors=True)
            assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 2
        with pytest.raises(OSError, match="Multiple exceptions: .*127.0.0.1.*127.0.0.2"):
            await loop.create_connection(asyncio.Protocol, "h", free_port)

    run(main())
