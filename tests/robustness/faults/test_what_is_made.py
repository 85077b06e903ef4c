"""Creating connections, servers, children and loops without descriptors, memory or buffers."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import subprocess
import sys

import pytest
from faulty import Call

EXHAUSTED = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
SH = "/bin/sh"


def name(code):
    return errno.errorcode[code]


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


def descriptors():
    return {number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")}


class Greeter(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"hello")
        transport.close()


async def greeting(address):
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, address)
        async with asyncio.timeout(20):
            return await loop.sock_recv(client, 100)


# ---- accepting ----


@pytest.fixture
def soon(monkeypatch):
    """At once: not after the second that servers wait before they retry."""
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.05)


@pytest.mark.parametrize("error", EXHAUSTED, ids=name)
def test_a_server_pauses_and_goes_on(run, faults, problems, soon, error):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Greeter, "127.0.0.1", 0, backlog=1)
        listening = server.sockets[0]
        faults.fail(Call.ACCEPT, error, fd=listening.fileno(), times=2)
        started = loop.time()
        assert await greeting(listening.getsockname()) == b"hello"
        assert loop.time() - started >= 0.04
        # And it goes on accepting.
        assert await greeting(listening.getsockname()) == b"hello"
        server.close()
        await server.wait_closed()

    run(main())
    assert problems
    for context in problems:
        assert context["message"] == "socket.accept() out of system resource"
        assert context["exception"].errno == error
        assert isinstance(context["socket"], asyncio.trsock.TransportSocket)


def test_a_server_that_is_closed_while_it_pauses(run, impl, faults, problems, soon):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Greeter, "127.0.0.1", 0, backlog=1)
        listening = server.sockets[0]
        faults.fail(Call.ACCEPT, errno.ENFILE, fd=listening.fileno())
        with socket.socket() as client:
            client.connect(listening.getsockname())
            while not problems:
                await asyncio.sleep(0.001)
            server.close()
            await asyncio.sleep(0.1)  # longer than the pause
        await server.wait_closed()

    run(main())
    out, *_ = [context for context in problems if not isinstance(context["exception"], ValueError)]
    assert out["message"] == "socket.accept() out of system resource"
    if impl.is_rondel:
        # asyncio reports an error of its own here: the descriptor is -1 (docs/compatibility.md).
        assert len(problems) == 1


@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN, errno.ECONNABORTED], ids=name)
def test_a_server_goes_on(run, faults, error):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Greeter, "127.0.0.1", 0)
        listening = server.sockets[0]
        faults.fail(Call.ACCEPT, error, fd=listening.fileno(), times=3)
        assert await greeting(listening.getsockname()) == b"hello"
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("error", [errno.EPERM, errno.EPROTO], ids=name)
def test_a_server_reports_what_else_fails(run, faults, problems, error):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Greeter, "127.0.0.1", 0)
        listening = server.sockets[0]
        faults.fail(Call.ACCEPT, error, fd=listening.fileno())
        assert await greeting(listening.getsockname()) == b"hello"
        server.close()
        await server.wait_closed()

    run(main())
    (context,) = problems
    assert context["message"].startswith("Exception in callback ")
    assert "_accept_connection(" in context["message"]
    assert context["exception"].errno == error


@pytest.mark.parametrize("error", EXHAUSTED, ids=name)
def test_accepting_by_a_plain_socket_fails(run, faults, error):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
            listening.setblocking(False)
            faults.fail(Call.ACCEPT, error, fd=listening.fileno())
            client.connect(listening.getsockname())
            with pytest.raises(OSError) as caught:
                await loop.sock_accept(listening)
            assert caught.value.errno == error
            connection, address = await loop.sock_accept(listening)
            assert address == client.getsockname()
            connection.close()

    run(main())


# ---- connecting ----


def test_a_connect_that_a_signal_interrupts(run, faults):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Greeter, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        faults.fail(Call.CONNECT, errno.EINTR)
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
        faults.fail(Call.CONNECT, errno.EINTR)
        assert await greeting(address) == b"hello"
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EACCES], ids=name)
def test_a_connect_fails(run, faults, error):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Greeter, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        before = descriptors()
        faults.fail(Call.CONNECT, error)
        with pytest.raises(OSError) as caught:
            await loop.create_connection(asyncio.Protocol, *address)
        assert caught.value.errno == error
        del caught
        gc.collect()
        assert descriptors() == before
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("error", EXHAUSTED, ids=name)
def test_no_socket_is_to_be_had(run, faults, error, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        before = descriptors()
        for make in (
            lambda: loop.create_connection(asyncio.Protocol, "127.0.0.1", 1),
            lambda: loop.create_unix_connection(asyncio.Protocol, path),
            lambda: loop.create_unix_server(asyncio.Protocol, path),
            lambda: loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0)),
        ):
            faults.fail(Call.MAKE, error)
            with pytest.raises(OSError) as caught:
                await make()
            assert caught.value.errno == error
        # A server ignores address families that the machine does not support; here there is no
        # other.
        faults.fail(Call.MAKE, error)
        with contextlib.suppress(OSError):  # 3.13 and later
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            assert server.sockets == ()
            server.close()
            await server.wait_closed()
        del caught, make
        gc.collect()
        assert descriptors() == before

    run(main())


# ---- loops ----


@pytest.mark.parametrize("error", EXHAUSTED, ids=name)
@pytest.mark.parametrize("after", [0, 1])
def test_a_loop_can_not_be_made(impl, faults, error, after):
    before = descriptors()
    faults.fail(Call.MAKE, error, after=after)
    with pytest.raises(OSError) as caught:
        impl.new_event_loop()
    assert caught.value.errno == error
    if impl.is_rondel:
        assert descriptors() == before
    # Objects created before the failure; stock asyncio leaves them to the collector, with a
    # warning.
    sys.unraisablehook, hook = lambda unraisable: None, sys.unraisablehook
    try:
        del caught
        gc.collect()
    finally:
        sys.unraisablehook = hook
    impl.new_event_loop().close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.ENOMEM], ids=name)
def test_a_descriptor_can_not_be_watched(run, impl, faults, error):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            called = asyncio.Event()
            for add in (loop.add_reader, loop.add_writer):
                faults.fail(Call.WATCH, error, fd=ours.fileno())
                with pytest.raises(OSError) as caught:
                    add(ours, called.set)
                assert caught.value.errno == error
            assert not loop.remove_reader(ours)
            assert not loop.remove_writer(ours)
            loop.add_reader(ours, called.set)
            if impl.is_rondel:
                # asyncio no longer watches it for anything (docs/compatibility.md).
                faults.fail(Call.WATCH, error, fd=ours.fileno())
                with pytest.raises(OSError):
                    loop.add_writer(ours, print)
            theirs.send(b"x")
            await asyncio.wait_for(called.wait(), 20)
            assert loop.remove_reader(ours)

    run(main())


# ---- children ----


@pytest.mark.parametrize("error", EXHAUSTED, ids=name)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_child_can_not_be_started(run, faults, error, after):
    """When each of the socket pairs for its streams is created."""

    async def main():
        before = descriptors(), children()
        faults.fail(Call.MAKE, error, after=after)
        with pytest.raises(OSError) as caught:
            await asyncio.create_subprocess_exec(
                SH, "-c", "exit 3", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        assert caught.value.errno == error
        del caught
        gc.collect()
        assert (descriptors(), children()) == before
        process = await asyncio.create_subprocess_exec(SH, "-c", "cat; exit 3", stdin=-1, stdout=-1)
        assert await process.communicate(b"well") == (b"well", None)
        assert process.returncode == 3

    run(main())
