"""Cancellation at every await of connecting, reading, writing and raw socket calls.

Each operation runs repeatedly. It is cancelled at its first suspension, its second, and so on,
until one run completes. No run may leave a descriptor or a task behind, or log anything. Each byte
was either returned or can still be read.
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import ModuleType
from typing import Any

import pytest

trustme = pytest.importorskip("trustme", reason="certificates are made with trustme (tests/requirements.txt)")

DATA = b"".join(b"line %d\n" % number for number in range(20))


def open_descriptors() -> set[int]:
    """Return the open descriptors, without that of listdir itself."""
    return {number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{number}")}


class CancelledAt:
    """Run a coroutine, and cancel its task when it suspends for the n-th time."""

    def __init__(self, coroutine: Any, at: int) -> None:
        self._coroutine = coroutine
        self._at = at
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited_for = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            if self.suspensions == self._at:
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(task.cancel)
            self.suspensions += 1
            error = None
            try:
                value = yield waited_for
            except BaseException as thrown:
                error = thrown


async def at_each_await(
    operation: Callable[[], Any], check: Callable[[Any], Awaitable[None]], *, most: int = 60
) -> int:
    """Cancel `operation` at each await. `check` gets the result, or None if it was cancelled."""
    for at in range(most):
        before = open_descriptors()
        tasks = asyncio.all_tasks()

        async def whole(at: int = at) -> Any:
            driver = CancelledAt(operation(), at)
            return await driver, driver.suspensions

        task = asyncio.create_task(whole())
        await asyncio.wait([task])
        result = None
        finished = False
        if not task.cancelled():
            result, suspensions = task.result()
            finished = suspensions <= at
        await check(result)
        for _ in range(5000):
            if not (open_descriptors() - before or asyncio.all_tasks() - tasks - {task}):
                break
            await asyncio.sleep(0.001)  # connections and resolver threads end a little later
        assert open_descriptors() - before == set(), f"descriptors left when cancelled at await {at}"
        assert asyncio.all_tasks() - tasks - {task} == set(), f"tasks left when cancelled at await {at}"
        if finished:
            return at
    raise AssertionError(f"not done after {most} awaits")


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert texts == []


async def close(result: Any) -> None:
    """Close the transport or the writer of a result, if there is one."""
    if result is None:
        return
    closing = result[0] if hasattr(result[0], "abort") else result[1]
    closing.close()
    if hasattr(closing, "wait_closed"):
        with contextlib.suppress(ssl.SSLError):  # data that arrives during the TLS shutdown
            await closing.wait_closed()


@contextlib.asynccontextmanager
async def serving(aio: ModuleType, kind: str, tmp_path: Any, **options: Any) -> AsyncIterator[Any]:
    """A server that sends DATA to each client and closes."""

    async def serve(_reader: Any, writer: Any) -> None:
        writer.write(DATA)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    if kind == "unix":
        server = await aio.start_unix_server(serve, tmp_path / "socket", **options)
        address: Any = tmp_path / "socket"
    else:
        server = await aio.start_server(serve, "127.0.0.1", 0, **options)
        address = server.sockets[0].getsockname()
    async with server:
        yield address


@pytest.mark.parametrize("kind", ["tcp", "unix", "name", "local", "sock"])
def test_connecting(run, aio, tmp_path, kind):
    async def main():
        async with serving(aio, "unix" if kind == "unix" else "tcp", tmp_path) as address:

            def connect():
                if kind == "unix":
                    return aio.open_unix_connection(address)
                if kind == "sock":
                    sock = socket.create_connection(address)
                    sock.setblocking(False)
                    return with_socket(sock)
                host = "localhost" if kind == "name" else address[0]
                options = {"local": {"local_addr": ("127.0.0.1", 0)}, "name": {"family": socket.AF_INET}}
                return aio.open_connection(host, address[1], **options.get(kind, {}))

            async def with_socket(sock):
                try:
                    return await aio.open_connection(sock=sock)
                except BaseException:
                    sock.close()  # the caller owns it until there is a transport
                    raise

            assert await at_each_await(connect, close) > 0

    run(main())


READS = {
    "read": lambda reader: reader.read(7),
    "readline": lambda reader: reader.readline(),
    "readexactly": lambda reader: reader.readexactly(11),
    "readuntil": lambda reader: reader.readuntil(b"e 3\n"),
}


@pytest.mark.parametrize("name", READS)
def test_reading(run, aio, name):
    """Data that a cancelled read did not return can still be read."""

    async def main():
        loop = asyncio.get_running_loop()
        for at in range(60):
            ours, theirs = socket.socketpair()
            reader, writer = await aio.open_connection(sock=ours)
            got = []

            left = iter(DATA)

            def feed(theirs=theirs, left=left):
                """Feed a byte in each turn, so that a read suspends many times."""
                byte = next(left, None)
                if byte is None:
                    theirs.close()
                else:
                    theirs.send(bytes([byte]))
                    loop.call_soon(feed, theirs, left)

            feed()

            async def read(at=at, reader=reader, got=got):
                driver = CancelledAt(READS[name](reader), at)
                got.append(await driver)
                return driver.suspensions

            task = asyncio.create_task(read())
            await asyncio.wait([task])
            got.append(await reader.read())
            assert b"".join(got) == DATA
            writer.close()
            await writer.wait_closed()
            if not task.cancelled() and task.result() <= at:
                return
        raise AssertionError("never done")

    run(main())


@pytest.mark.parametrize("name", ["drain", "wait_closed"])
def test_writing(run, aio, name):
    """A cancelled drain() drops no data; a cancelled wait_closed() does not stop closing."""

    async def main():
        loop = asyncio.get_running_loop()
        for at in range(60):
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            reader, writer = await aio.open_connection(sock=ours)
            data = os.urandom(400_000)
            received = bytearray()
            everything = loop.create_future()

            def take(received=received, theirs=theirs, everything=everything):
                chunk = theirs.recv(50_000)
                received.extend(chunk)
                if not chunk:
                    loop.remove_reader(theirs)
                    everything.set_result(None)

            loop.add_reader(theirs, take)

            async def write(at=at, writer=writer, data=data):
                writer.write(data)
                if name == "wait_closed":
                    writer.close()
                driver = CancelledAt(getattr(writer, name)(), at)
                await driver
                return driver.suspensions

            task = asyncio.create_task(write())
            await asyncio.wait([task])
            writer.close()
            await everything
            theirs.close()
            await asyncio.sleep(0.001)
            assert bytes(received) == data
            if not task.cancelled() and task.result() <= at:
                return
        raise AssertionError("never done")

    run(main())


SOCKET_CALLS = ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_accept", "sock_connect", "sock_sendall"]


@pytest.mark.parametrize("name", SOCKET_CALLS)
def test_socket_calls(run, name):
    """After a cancelled call the socket is no longer watched, and no received data is lost."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            for at in range(20):
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                theirs.setblocking(False)
                with ours, theirs, socket.socket() as client:
                    client.setblocking(False)
                    buffer = bytearray(4)

                    async def call(at=at, ours=ours, client=client, buffer=buffer):
                        arguments = {
                            "sock_recv": (ours, 4),
                            "sock_recv_into": (ours, buffer),
                            "sock_recvfrom": (ours, 4),
                            "sock_accept": (listener,),
                            "sock_connect": (client, listener.getsockname()),
                            "sock_sendall": (ours, bytes(2_000_000)),
                        }[name]
                        driver = CancelledAt(getattr(loop, name)(*arguments), at)
                        return await driver, driver.suspensions

                    task = asyncio.create_task(call())
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    theirs.send(b"data")
                    if name == "sock_accept":
                        client.setblocking(True)
                        client.connect(listener.getsockname())
                    while name == "sock_sendall" and not task.done():
                        with contextlib.suppress(BlockingIOError):
                            theirs.recv(1_000_000)
                        await asyncio.sleep(0)
                    await asyncio.wait([task])
                    if task.cancelled():
                        if name.startswith("sock_recv"):
                            assert ours.recv(4) == b"data"
                        elif name == "sock_accept":
                            listener.accept()[0].close()
                    elif name == "sock_accept":
                        task.result()[0][0].close()
                    for sock in (ours, listener, client):
                        assert not loop.remove_reader(sock)
                        assert not loop.remove_writer(sock)
                    if name == "sock_connect":
                        with contextlib.suppress(BlockingIOError):
                            listener.accept()[0].close()
                    if not task.cancelled() and task.result()[1] <= at:
                        return
        raise AssertionError("never done")

    run(main())


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize("way", ["connect", "start_tls"])
def test_tls_handshakes(run, aio, tmp_path, contexts, way, problems, debug):
    server_context, client_context = contexts

    async def main():
        async def upgrade(address):
            # The server starts TLS at once, the client later.
            reader, writer = await aio.open_connection(*address)
            try:
                await writer.start_tls(client_context, server_hostname="localhost")
            except BaseException:
                writer.transport.abort()
                raise
            return reader, writer

        async with serving(aio, "tcp", tmp_path, ssl=server_context) as address:

            def connect():
                if way == "start_tls":
                    return upgrade(address)
                return aio.open_connection(*address, ssl=client_context, server_hostname="localhost")

            assert await at_each_await(connect, close) > 0

    run(main())
    # A server reports a client that disconnects during the handshake only in debug mode.
    unexpected = [context for context in problems if not isinstance(context.get("exception"), OSError)]
    assert not unexpected
