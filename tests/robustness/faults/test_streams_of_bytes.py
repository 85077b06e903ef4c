"""Connections and pipes.

Interrupted and partial calls, and errors for lack of memory or buffers.
"""

import asyncio
import contextlib
import errno
import io
import os
import socket

import pytest
from faulty import Call

MUCH = bytes(range(256)) * 400
# Errors after which the call is repeated, at once or when the loop reports the descriptor.
PASSING = [errno.EINTR, errno.EAGAIN]
# Errors that end a connection.
LASTING = [errno.ENOBUFS, errno.ENOMEM, errno.EIO]


def descriptors():
    """Return the open descriptors, except that of listdir itself."""
    return {number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")}


def name(code):
    return errno.errorcode[code]


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.data = bytearray()
        self.events = []
        self.lost = asyncio.get_running_loop().create_future()
        self.came = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        self.came.set()

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def eof_received(self):
        self.events.append("eof")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)

    async def wait(self, count):
        async with asyncio.timeout(20):
            while len(self.data) < count:
                self.came.clear()
                await self.came.wait()
        return bytes(self.data)


class Buffered(asyncio.BufferedProtocol, Recorder):
    def get_buffer(self, sizehint):
        self.buffer = bytearray(1000)
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data_received(self.buffer[:nbytes])


@contextlib.asynccontextmanager
async def connection(factory=Recorder):
    """Return a transport, its protocol, its descriptor, and its peer, a non-blocking socket."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(factory, sock=ours)
    try:
        yield transport, protocol, ours.fileno(), theirs
    finally:
        theirs.close()
        if not protocol.lost.done():
            transport.abort()
            await protocol.lost


async def received(sock, count):
    loop = asyncio.get_running_loop()
    data = bytearray()
    async with asyncio.timeout(20):
        while len(data) < count and (more := await loop.sock_recv(sock, 1 << 16)):
            data += more
    return bytes(data)


@contextlib.asynccontextmanager
async def pipes():
    """Return both ends of a pipe between two transports: protocols and descriptors."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    source, reader = await loop.connect_read_pipe(Recorder, io.FileIO(reading, "rb"))
    sink, writer = await loop.connect_write_pipe(Recorder, io.FileIO(writing, "wb"))
    try:
        yield source, reader, reading, sink, writer, writing
    finally:
        for transport, protocol in ((sink, writer), (source, reader)):
            if not protocol.lost.done():
                transport.close()
                await protocol.lost


# ---- sockets: receiving ----


@pytest.mark.parametrize("factory", [Recorder, Buffered])
@pytest.mark.parametrize("error", PASSING, ids=name)
def test_receiving_goes_on(run, faults, factory, error):
    async def main():
        async with connection(factory) as (_transport, protocol, fd, peer):
            faults.fail(Call.RECEIVE, error, fd=fd, times=3)
            peer.send(b"first")
            assert await protocol.wait(5) == b"first"
            peer.send(b" second")
            assert await protocol.wait(12) == b"first second"

    run(main())


@pytest.mark.parametrize("factory", [Recorder, Buffered])
@pytest.mark.parametrize("error", LASTING, ids=name)
def test_receiving_fails(run, faults, factory, error):
    async def main():
        async with connection(factory) as (transport, protocol, fd, peer):
            peer.send(b"first")
            await protocol.wait(5)
            faults.fail(Call.RECEIVE, error, fd=fd)
            peer.send(b"second")
            lost = await protocol.lost
            assert type(lost) is type(OSError(error, "")) and lost.errno == error
            assert (protocol.data, protocol.events) == (b"first", ["lost"])
            assert transport.is_closing()
            # Closed with data that was not received.
            with pytest.raises(ConnectionResetError):
                peer.recv(10)

    run(main())


def test_receiving_fails_for_a_stream(run, aio, faults):
    async def main():
        ours, theirs = socket.socketpair()
        reader, writer = await aio.open_connection(sock=ours)
        faults.fail(Call.RECEIVE, errno.ENOBUFS, fd=ours.fileno())
        theirs.send(b"lost")
        with pytest.raises(OSError) as caught:
            await reader.read(10)
        assert caught.value.errno == errno.ENOBUFS
        assert reader.exception() is caught.value
        writer.close()
        with pytest.raises(OSError):
            await writer.wait_closed()
        theirs.close()

    run(main())


# ---- sockets: sending ----


@pytest.mark.parametrize("error", PASSING, ids=name)
def test_sending_goes_on(run, faults, error):
    async def main():
        async with connection() as (transport, protocol, fd, peer):
            faults.fail(Call.SEND, error, fd=fd, times=2)
            transport.write(b"first")
            transport.write(b" second")
            assert await received(peer, 12) == b"first second"
            # Also when data is already queued for the peer.
            transport.write(MUCH * 10)
            faults.fail(Call.SEND, error, fd=fd, times=2)
            assert await received(peer, len(MUCH) * 10) == MUCH * 10
            assert transport.get_write_buffer_size() == 0
            assert protocol.events == ["pause", "resume"]

    run(main())


@pytest.mark.parametrize("most", [1, 7, 4096])
@pytest.mark.parametrize("way", ["write", "writes", "writelines"])
def test_sending_in_small_parts(run, faults, way, most):
    data = MUCH[: most * 600]
    pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)]

    async def main():
        async with connection() as (transport, protocol, fd, peer):
            faults.shorten(Call.SEND, most, fd=fd)
            if way == "write":
                transport.write(data)
            elif way == "writelines":
                transport.writelines(pieces)
            else:
                for piece in pieces:
                    transport.write(piece)
            transport.close()
            assert await received(peer, len(data) + 1) == data
            assert await protocol.lost is None

    run(main())


@pytest.mark.parametrize("error", LASTING, ids=name)
@pytest.mark.parametrize("many", [False, True], ids=["write", "writelines"])
def test_sending_fails(run, faults, error, many):
    async def main():
        async with connection() as (transport, protocol, fd, peer):
            faults.fail(Call.SEND, error, fd=fd)
            if many:
                transport.writelines([b"never", b"sent"])
            else:
                transport.write(b"never sent")
            lost = await protocol.lost
            assert type(lost) is type(OSError(error, "")) and lost.errno == error
            assert transport.is_closing() and transport.get_write_buffer_size() == 0
            assert protocol.events == ["lost"]
            assert await received(peer, 1) == b""

    run(main())


@pytest.mark.parametrize("error", LASTING, ids=name)
def test_sending_fails_later(run, faults, error):
    """When the peer has received a part, and the rest is queued."""

    async def main():
        async with connection() as (transport, protocol, fd, peer):
            transport.write(MUCH * 10)
            assert protocol.events == ["pause"]
            faults.fail(Call.SEND, error, fd=fd)
            taken = await received(peer, len(MUCH) * 10)
            assert len(taken) < len(MUCH) * 10 and (MUCH * 10).startswith(taken)
            lost = await protocol.lost
            assert lost.errno == error
            assert protocol.events == ["pause", "lost"]
            assert transport.get_write_buffer_size() == 0

    run(main())


def test_sending_fails_while_closing(run, faults):
    async def main():
        async with connection() as (transport, protocol, fd, peer):
            transport.write(MUCH * 10)
            transport.close()
            faults.fail(Call.SEND, errno.ENOBUFS, fd=fd)
            await received(peer, len(MUCH) * 10)
            assert (await protocol.lost).errno == errno.ENOBUFS

    run(main())


def test_sending_fails_for_a_stream(run, aio, faults):
    async def main():
        ours, theirs = socket.socketpair()
        reader, writer = await aio.open_connection(sock=ours)
        faults.fail(Call.SEND, errno.ENOBUFS, fd=ours.fileno())
        writer.write(b"lost")
        with pytest.raises(OSError) as caught:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await writer.drain()
        assert caught.value.errno == errno.ENOBUFS
        with pytest.raises(OSError) as caught:
            await reader.read()
        assert caught.value.errno == errno.ENOBUFS
        writer.close()
        with pytest.raises(OSError):
            await writer.wait_closed()
        theirs.close()

    run(main())


def test_failures_are_told_to_the_log_in_debug_mode_only(run, faults, debug, caplog):
    async def main():
        async with connection() as (transport, protocol, fd, _peer):
            faults.fail(Call.SEND, errno.ENOBUFS, fd=fd)
            transport.write(b"never sent")
            await protocol.lost
            async with pipes() as (_source, _reader, _reading, sink, writer, writing):
                faults.fail(Call.SEND, errno.ENOBUFS, fd=writing)
                sink.write(b"never written")
                await writer.lost

    with caplog.at_level("DEBUG", "asyncio"):
        run(main())
    texts = [record.getMessage() for record in caplog.records]
    told = [text.rpartition(": ")[2] for text in texts if "Fatal" in text]
    fatal = ["Fatal write error on socket transport", "Fatal write error on pipe transport"]
    assert told == (fatal if debug else [])
    assert all(record.exc_info for record in caplog.records if "Fatal" in record.getMessage())


# ---- plain sockets ----


@pytest.mark.parametrize("error", PASSING, ids=name)
def test_plain_sockets_go_on(run, faults, error):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            faults.fail(Call.RECEIVE, error, fd=theirs.fileno(), times=2)
            faults.fail(Call.SEND, error, fd=ours.fileno(), times=2)
            faults.shorten(Call.SEND, 1000, fd=ours.fileno())
            _, data = await asyncio.gather(loop.sock_sendall(ours, MUCH), received(theirs, len(MUCH)))
            assert data == MUCH
            into = bytearray(10)
            faults.fail(Call.RECEIVE, error, fd=theirs.fileno())
            await loop.sock_sendall(ours, b"more")
            assert await loop.sock_recv_into(theirs, into) == 4

    run(main())


def test_plain_sockets_fail(run, faults):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            faults.fail(Call.SEND, errno.ENOBUFS, fd=ours.fileno())
            with pytest.raises(OSError) as caught:
                await loop.sock_sendall(ours, b"x")
            assert caught.value.errno == errno.ENOBUFS
            faults.fail(Call.RECEIVE, errno.ENOMEM, fd=ours.fileno())
            theirs.send(b"x")
            with pytest.raises(OSError) as caught:
                await loop.sock_recv(ours, 1)
            assert caught.value.errno == errno.ENOMEM
            assert await loop.sock_recv(ours, 1) == b"x"

    run(main())


# ---- pipes ----


@pytest.mark.parametrize("error", PASSING, ids=name)
def test_pipes_go_on(run, faults, error):
    async def main():
        async with pipes() as (_source, reader, reading, sink, _writer, writing):
            faults.fail(Call.SEND, error, fd=writing, times=2)
            faults.fail(Call.RECEIVE, error, fd=reading, times=2)
            sink.write(b"first")
            sink.write(b" second")
            assert await reader.wait(12) == b"first second"
            sink.write(MUCH)
            faults.fail(Call.SEND, error, fd=writing, times=2)
            assert await reader.wait(12 + len(MUCH)) == b"first second" + MUCH

    run(main())


@pytest.mark.parametrize("most", [1, 4000])
def test_pipes_in_small_parts(run, faults, most):
    data = MUCH[: most * 300]

    async def main():
        async with pipes() as (_source, reader, reading, sink, writer, writing):
            faults.shorten(Call.SEND, most, fd=writing)
            faults.shorten(Call.RECEIVE, most + 1, fd=reading)
            sink.write(data)
            sink.close()
            assert await reader.lost is None
            assert reader.data == data
            assert await writer.lost is None

    run(main())


@pytest.mark.parametrize("error", LASTING, ids=name)
@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
def test_writing_to_a_pipe_fails(run, faults, error, later):
    async def main():
        async with pipes() as (source, reader, _reading, sink, writer, writing):
            if later:
                source.pause_reading()
                sink.write(MUCH)
                assert sink.get_write_buffer_size() > 0
            faults.fail(Call.SEND, error, fd=writing)
            if later:
                source.resume_reading()
            else:
                sink.write(b"never written")
            lost = await writer.lost
            assert type(lost) is type(OSError(error, "")) and lost.errno == error
            # The other end gets the data written before, then the end of the stream.
            assert await reader.lost is None
            assert MUCH.startswith(bytes(reader.data)) and len(reader.data) < len(MUCH)

    run(main())


@pytest.mark.parametrize("error", LASTING, ids=name)
def test_reading_from_a_pipe_fails(run, faults, error, problems):
    async def main():
        async with pipes() as (source, reader, reading, sink, writer, _writing):
            faults.fail(Call.RECEIVE, error, fd=reading)
            sink.write(b"lost")
            lost = await reader.lost
            assert lost.errno == error
            assert source.is_closing() and reader.data == b""
            # The kernel tells the writing end.
            assert await writer.lost is None
            return reader, source

    reader, source = run(main())
    # A terminal's end is reported as EIO.
    if error == errno.EIO:
        assert problems == []
    else:
        (context,) = problems
        assert context["message"] == "Fatal read error on pipe transport"
        assert context["exception"].errno == error
        assert context["transport"] is source and context["protocol"] is reader


# ---- over TLS ----

trustme = pytest.importorskip("trustme", reason="certificates are made with trustme (tests/requirements.txt)")


@pytest.fixture(scope="session")
def contexts():
    import ssl

    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


@contextlib.asynccontextmanager
async def tls(contexts):
    """Return both ends of a connection: transports, protocols and descriptors."""
    loop = asyncio.get_running_loop()
    ends = []

    def factory():
        ends.append(Recorder())
        return ends[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=contexts[0])
    address = server.sockets[0].getsockname()
    transport, protocol = await loop.create_connection(Recorder, *address, ssl=contexts[1], server_hostname="localhost")
    transport.write(b"hello")
    while not ends:
        await asyncio.sleep(0.001)
    await ends[0].wait(5)
    ends[0].data.clear()
    try:
        yield transport, protocol, transport.get_extra_info("socket").fileno(), ends[0]
    finally:
        server.close()
        for each in (protocol, ends[0]):
            if not each.lost.done():
                each.transport.abort()
                await each.lost
        await server.wait_closed()


def test_tls_in_small_parts(run, faults, contexts):
    async def main():
        async with tls(contexts) as (transport, protocol, fd, peer):
            peer_fd = peer.transport.get_extra_info("socket").fileno()
            faults.fail(Call.SEND, errno.EINTR, fd=fd, times=2)
            faults.fail(Call.RECEIVE, errno.EINTR, fd=peer_fd, times=2)
            faults.shorten(Call.SEND, 1009, fd=fd)
            faults.shorten(Call.RECEIVE, 997, fd=peer_fd)
            transport.write(MUCH)
            transport.writelines([b"some", b" more"])
            assert await peer.wait(len(MUCH) + 9) == MUCH + b"some more"
            transport.close()
            assert await peer.lost is None
            assert await protocol.lost is None

    run(main())


@pytest.mark.parametrize("call", [Call.SEND, Call.RECEIVE])
def test_tls_fails(run, faults, contexts, call):
    async def main():
        async with tls(contexts) as (transport, protocol, fd, peer):
            faults.fail(call, errno.ENOBUFS, fd=fd)
            (transport if call is Call.SEND else peer.transport).write(b"never arrives")
            lost = await protocol.lost
            assert lost.errno == errno.ENOBUFS
            assert transport.is_closing()
            await peer.lost
            assert (peer.data, protocol.data) == (b"", b"")

    run(main())


def test_nothing_is_left_open(run, faults):
    """After failures in each direction, while the loop goes on running."""

    async def main():
        before = descriptors()
        for call in (Call.SEND, Call.RECEIVE):
            async with connection() as (transport, protocol, fd, peer):
                faults.fail(call, errno.ENOBUFS, fd=fd)
                transport.write(b"x")
                peer.send(b"x")
                await protocol.lost
            async with pipes() as (_source, reader, reading, sink, writer, writing):
                faults.fail(call, errno.EIO, fd=writing if call is Call.SEND else reading)
                sink.write(b"x")
                await reader.lost
                await writer.lost
        await asyncio.sleep(0)
        assert descriptors() == before

    run(main())
