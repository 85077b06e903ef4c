"""Programs, their tests and tracers that patch a loop.

They replace methods of single loops, transports and modules, read private attributes, and set
attributes on objects. Other loops fail here; all of this works on asyncio.
"""

import asyncio
import os
import socket
import ssl
import sys
import time
from asyncio import trsock
from unittest import mock

import pytest


async def connected(protocol_factory=asyncio.Protocol, **options):
    """Return a server's transport, a client's transport, and the server."""
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()

    class Accepting(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.set_result(transport)

    server = await loop.create_server(Accepting, "127.0.0.1", 0, **options)
    transport, protocol = await loop.create_connection(protocol_factory, *server.sockets[0].getsockname())
    return server, await accepted, transport, protocol


async def end(server, *transports):
    for transport in transports:
        transport.abort()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.001)


# ---- replaced methods and functions ----


def test_a_loops_methods_are_asked_for_by_what_is_native(run, aio):
    """`sleep`, `timeout`, futures, tasks and `to_thread` call methods set on the instance."""

    async def main():
        loop = asyncio.get_running_loop()
        names = ("call_soon", "call_later", "call_at", "create_task", "run_in_executor")
        called = set()

        def noted(name, method):
            def replacement(*args, **kwargs):
                called.add(name)
                return method(*args, **kwargs)

            return replacement

        for name in names:
            setattr(loop, name, noted(name, getattr(loop, name)))
        await aio.sleep(0.001)
        assert "call_later" in called
        async with aio.timeout(60):
            await aio.sleep(0)
        assert "call_at" in called
        future = loop.create_future()
        future.add_done_callback(lambda _: None)
        called.clear()
        future.set_result(1)
        assert called == {"call_soon"}
        called.clear()
        await aio.create_task(aio.sleep(0))
        assert "create_task" in called
        await aio.to_thread(int)
        assert "run_in_executor" in called
        for name in names:
            delattr(loop, name)
        called.clear()
        await aio.sleep(0.001)
        assert not called

    run(main())


def test_methods_of_the_class_replaced_while_a_loop_runs(run, aio, monkeypatch):
    """It takes effect once the loop has polled."""

    async def main():
        loop = asyncio.get_running_loop()
        names = ("call_soon", "call_later", "create_task")
        called = set()

        def noted(name, method):
            def replacement(*args, **kwargs):
                called.add(name)
                return method(*args, **kwargs)

            return replacement

        async def use():
            called.clear()
            await aio.sleep(0.001)
            await aio.create_task(aio.sleep(0))
            future = loop.create_future()
            future.add_done_callback(lambda _: None)
            future.set_result(1)

        for _ in range(2):
            await use()
            assert not called
            with monkeypatch.context() as patch:
                for name in names:
                    patch.setattr(type(loop), name, noted(name, getattr(loop, name).__func__))
                await asyncio.sleep(0.03)
                await use()
                assert called == set(names)
            await asyncio.sleep(0.03)

    run(main())


def test_an_exception_handler_put_on_the_instance(run):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        loop.call_exception_handler = seen.append
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del loop.call_exception_handler
        return seen

    (context,) = run(main())
    assert isinstance(context["exception"], ZeroDivisionError)


def test_a_clock_put_on_the_instance_moves_sleeps(run, aio):
    """Like tests with a fake clock.

    Deadlines are computed from `loop.time()` and compared with it.
    """

    async def main():
        loop = asyncio.get_running_loop()
        now = [loop.time()]
        loop.time = lambda: now[0]

        async def push():
            for _ in range(4):
                now[0] += 1000
                await aio.sleep(0)

        pushing = aio.create_task(push())
        begin = time.monotonic()
        await aio.sleep(3000)
        await pushing
        assert time.monotonic() - begin < 30
        with pytest.raises(TimeoutError):
            async with aio.timeout(500):
                aio.create_task(push())
                await loop.create_future()
        del loop.time

    run(main())


def test_methods_of_one_transport(run):
    """uvicorn, aiohttp and aioquic set functions of their own on a transport."""

    async def main():
        server, theirs, transport, _ = await connected()
        written = []
        for name in ("write", "close", "pause_reading", "get_extra_info", "is_closing"):
            setattr(transport, name, lambda *args, name=name: written.append((name, *args)))
        transport.write(b"x")
        transport.close()
        transport.pause_reading()
        transport.get_extra_info("peername")
        transport.is_closing()
        assert written == [
            ("write", b"x"),
            ("close",),
            ("pause_reading",),
            ("get_extra_info", "peername"),
            ("is_closing",),
        ]
        for name in ("write", "close", "pause_reading", "get_extra_info", "is_closing"):
            delattr(transport, name)
        assert not transport.is_closing()
        await end(server, theirs, transport)

    run(main())


def test_functions_of_modules(run, monkeypatch):
    """The loop calls a `socket.getaddrinfo` that a test has replaced."""

    async def main():
        loop = asyncio.get_running_loop()
        asked = []
        stock = socket.getaddrinfo

        def fake(host, *args, **kwargs):
            asked.append(host)
            return stock("127.0.0.1" if host == "database.test" else host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", fake)
        found = await loop.getaddrinfo("database.test", 5432, type=socket.SOCK_STREAM)
        assert found[0][4] == ("127.0.0.1", 5432)
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await loop.create_connection(asyncio.Protocol, "database.test", port)
        assert asked.count("database.test") == 2
        await end(server, transport)

    run(main())


# ---- private attributes ----


def test_private_attributes_that_libraries_read(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, theirs, transport, protocol = await connected()
        assert server._ssl_context is None
        assert len(server._sockets) == 1
        assert server._loop is loop
        assert theirs._server is server
        assert transport._loop is loop
        assert transport._protocol is protocol
        assert transport._sock.fileno() == transport._sock_fd == transport.get_extra_info("socket").fileno()
        assert transport._extra["peername"] == transport.get_extra_info("peername")
        assert not transport._buffer
        assert transport._conn_lost == 0
        assert not transport._closing
        assert not transport._eof
        handle = loop.call_later(60, print)
        assert handle._when == handle.when()
        assert handle._scheduled
        assert handle._callback is print
        assert handle._args == ()
        assert handle._loop is loop
        handle.cancel()
        assert handle._cancelled
        task = asyncio.current_task()
        assert task._loop is loop
        assert task._coro is task.get_coro()
        assert not task._must_cancel
        assert task._log_destroy_pending
        future = loop.create_future()
        assert (future._state, future._exception, future._callbacks) == ("PENDING", None, None)
        assert loop._default_executor is None
        await loop.run_in_executor(None, int)
        assert loop._default_executor is not None
        assert loop._thread_id is not None
        assert not loop._closed
        await end(server, theirs, transport)

    run(main())


def test_a_servers_context(run):
    async def main():
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
        assert server._ssl_context is context
        await end(server)

    run(main())


# ---- classes ----


def test_classes(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, theirs, transport, _ = await connected()
        assert isinstance(server, asyncio.Server)
        assert isinstance(server.sockets, tuple)
        assert isinstance(server.sockets[0], trsock.TransportSocket)
        for each in (theirs, transport):
            assert isinstance(each, asyncio.Transport)
            assert isinstance(each, asyncio.ReadTransport)
            assert isinstance(each, asyncio.WriteTransport)
            assert isinstance(each.get_extra_info("socket"), trsock.TransportSocket)
        handle, timer = loop.call_soon(int), loop.call_later(0, int)
        assert isinstance(handle, asyncio.Handle)
        assert not isinstance(handle, asyncio.TimerHandle)
        assert isinstance(timer, asyncio.TimerHandle)
        assert isinstance(asyncio.current_task(), asyncio.Task)
        assert isinstance(loop.create_future(), asyncio.Future)
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert isinstance(loop, asyncio.BaseEventLoop)
        await end(server, theirs, transport)

    run(main())


# ---- parameters that other loops lack ----


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
def test_keep_alive(run):
    async def main():
        server, theirs, transport, _ = await connected(keep_alive=True)
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert theirs.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await end(server, theirs, transport)

    run(main())


@pytest.mark.parametrize("kind", ["plain", "context", "keywords"])
def test_task_factories(run, kind):
    """A factory of any signature gets the arguments of `create_task` that it accepts."""

    async def main():
        loop = asyncio.get_running_loop()
        made = []

        def plain(loop, coro):
            made.append(coro)
            return asyncio.Task(coro, loop=loop)

        def context(loop, coro, context=None):
            made.append(coro)
            return asyncio.Task(coro, loop=loop, context=context)

        def keywords(loop, coro, **kwargs):
            made.append(coro)
            return asyncio.Task(coro, loop=loop, **kwargs)

        loop.set_task_factory({"plain": plain, "context": context, "keywords": keywords}[kind])
        try:

            async def answer():
                return 42

            assert await loop.create_task(answer()) == 42
            async with asyncio.TaskGroup() as group:
                group.create_task(answer())
            assert await asyncio.gather(answer()) == [42]
            assert len(made) == 3
        finally:
            loop.set_task_factory(None)

    run(main())


def test_the_scope_of_a_local_address(run):
    async def main():
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo("fe80::1%lo", 80, type=socket.SOCK_STREAM)
        assert found == socket.getaddrinfo("fe80::1%lo", 80, type=socket.SOCK_STREAM)
        assert found[0][4][3] == socket.if_nametoindex("lo")

    run(main())


@pytest.mark.one_mode
def test_short_sleeps_are_slept(run, aio):
    async def main():
        for delay in (0.0002, 0.0005, 0.001):
            begin = time.perf_counter()
            await aio.sleep(delay)
            assert time.perf_counter() - begin >= delay

    run(main())


@pytest.mark.parametrize("fallback", [True, False])
def test_sendfile(run, tmp_path, fallback):
    """`loop.sendfile` and `sock_sendfile` send a part of a file, and return its size."""
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)

    class Collecting(asyncio.Protocol):
        def __init__(self):
            self.received = bytearray()

        def data_received(self, data):
            self.received += data

    async def main():
        loop = asyncio.get_running_loop()
        server, theirs, transport, protocol = await connected(Collecting)
        with (tmp_path / "file").open("rb") as file:
            theirs.write(b"header")
            assert await loop.sendfile(theirs, file, 1000, 200_000, fallback=fallback) == 200_000
            assert file.tell() == 201_000
            theirs.write(b"footer")
            while len(protocol.received) < 200_012:
                await asyncio.sleep(0.001)
            assert bytes(protocol.received) == b"header" + content[1000:201_000] + b"footer"
            ours, other = socket.socketpair()
            with ours, other:
                ours.setblocking(False)
                other.setblocking(False)
                sending = asyncio.create_task(loop.sock_sendfile(ours, file, 5, 250_000, fallback=fallback))
                received = bytearray()
                while len(received) < 250_000:
                    received += await loop.sock_recv(other, 100_000)
                assert await sending == 250_000
                assert bytes(received) == content[5:250_005]
        await end(server, theirs, transport)

    run(main())


def test_a_mock_in_the_place_of_what_transports_inherit(run, monkeypatch):
    async def main():
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        with mock.patch("asyncio.Transport.get_extra_info") as replaced:
            replaced.return_value = ("peer", 1234)
            assert transport.get_extra_info("peername") == ("peer", 1234)
            replaced.assert_called_once_with("peername")
        with mock.patch.object(asyncio.BaseTransport, "get_extra_info", autospec=True) as replaced:
            transport.get_extra_info("peername", 1)
            replaced.assert_called_once_with(transport, "peername", 1)
        assert transport.get_extra_info("nothing", 7) == 7
        transport.close()
        theirs.close()
        await asyncio.sleep(0)

    run(main())


def test_a_socket_of_a_class_of_ones_own_is_read_and_written_by_its_methods(run):
    class Tracked(socket.socket):
        def recv(self, *args):
            calls.append("recv")
            return super().recv(*args)

        def send(self, *args):
            calls.append("send")
            return super().send(*args)

    calls: list[str] = []

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        sock = Tracked()
        sock.connect(server.sockets[0].getsockname())
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        writer.close()
        await writer.wait_closed()
        server.close()

    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    run(main())
    assert {*calls} == {"recv", "send"}


def test_a_library_says_which_loop_runs(loop, aio, monkeypatch):
    """Like trio-asyncio, whose loop runs inside trio's."""
    with monkeypatch.context() as patched:
        for name in ("_get_running_loop", "get_running_loop"):
            patched.setattr(asyncio.events, name, lambda: loop)
        sleeping = aio.sleep(0.001).__await__()
        future = next(sleeping)
        assert future.get_loop() is loop
    while not future.done():
        loop.run_until_complete(asyncio.sleep(0.001))
    with pytest.raises(StopIteration):
        next(sleeping)
