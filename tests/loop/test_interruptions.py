"""Frequent signals, while a loop waits, connects, sends and receives: no data is lost, nothing
fails.

`robustness/faults/` tests system calls that a signal interrupts at rare moments.
"""

import asyncio
import contextlib
import os
import signal
import socket

import pytest

MUCH = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture
def signals():
    """Send a signal every millisecond; return the list of those that arrived."""
    came = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    yield came
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def test_while_the_loop_waits(loop, signals):
    """Signals make no timer fire early, and do not end the loop's wait."""
    begun = loop.time()
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    assert loop.time() - begun >= 0.049
    assert signals


def test_connections(run, aio, signals):
    async def handle(reader, writer):
        with contextlib.closing(writer):
            while data := await reader.read(10_000):
                writer.write(data)
                await writer.drain()

    async def client(address, data):
        reader, writer = await aio.open_connection(*address)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        async def send():
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        _, echoed = await aio.gather(send(), reader.read())
        writer.close()
        await writer.wait_closed()
        assert echoed == data

    async def main():
        server = await aio.start_server(handle, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await client(address, MUCH)
        await aio.gather(*(client(address, MUCH[:1000]) for _ in range(50)))
        server.close()
        await server.wait_closed()

    run(main())
    assert signals


def test_datagrams(run, signals):
    received = []

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            received.append(int(data))

        def error_received(self, exc):
            received.append(exc)

    async def main():
        loop = asyncio.get_running_loop()
        receiver, _ = await loop.create_datagram_endpoint(Receiver, ("127.0.0.1", 0))
        address = receiver.get_extra_info("sockname")
        sender, _ = await loop.create_datagram_endpoint(Receiver, remote_addr=address)
        for number in range(0, 2000, 20):
            for each in range(number, number + 20):
                sender.sendto(b"%d" % each)
            await until(lambda count=number + 20: len(received) == count)
        sender.close()
        receiver.close()

    run(main())
    assert received == list(range(2000))
    assert signals


def test_pipes_and_children(run, aio, signals):
    async def main():
        process = await aio.create_subprocess_exec("/bin/cat", stdin=-1, stdout=-1)
        assert await process.communicate(MUCH) == (MUCH, None)
        assert process.returncode == 0
        for code in range(5):
            process = await aio.create_subprocess_exec("/bin/sh", "-c", f"exit {code}")
            assert await process.wait() == code

    run(main())
    assert signals


def test_plain_sockets(run, signals):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            for _ in range(20):
                with socket.socket() as client:
                    client.setblocking(False)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                    accepting = loop.sock_accept(listening)
                    _, (server, _) = await asyncio.gather(loop.sock_connect(client, listening.getsockname()), accepting)
                    with server:

                        async def receive(server=server):
                            data = bytearray()
                            while len(data) < 100_000:
                                data += await loop.sock_recv(server, 5000)
                            return data

                        _, data = await asyncio.gather(loop.sock_sendall(client, MUCH[:100_000]), receive())
                        assert data == MUCH[:100_000]

    run(main())
    assert signals


def test_calls_from_other_threads(run, signals):
    """`call_soon_threadsafe` while signals arrive."""

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(300):
            assert await loop.run_in_executor(None, os.getpid) == os.getpid()

    run(main())
    assert signals
