"""The loop's methods for plain sockets: results, no loss of data, refused arguments."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def pair(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    one.setblocking(False)
    other.setblocking(False)
    return one, other


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


async def recv(loop: Any, sock: socket.socket) -> bytes:
    data: bytes = await loop.sock_recv(sock, 100)
    return data


async def recv_into(loop: Any, sock: socket.socket) -> bytes:
    memory = bytearray(100)
    return bytes(memory[: await loop.sock_recv_into(sock, memory)])


async def recvfrom(loop: Any, sock: socket.socket) -> bytes:
    data, address = await loop.sock_recvfrom(sock, 100)
    assert address is None
    return bytes(data)


async def recvfrom_into(loop: Any, sock: socket.socket) -> bytes:
    memory = bytearray(100)
    count, address = await loop.sock_recvfrom_into(sock, memory)
    assert address is None
    return bytes(memory[:count])


RECEIVERS = [recv, recv_into, recvfrom, recvfrom_into]


@pytest.mark.parametrize("receive", RECEIVERS)
def test_what_is_there_and_what_comes_later(run: Run, receive: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        with ours, theirs:
            theirs.send(b"first")
            assert await receive(loop, ours) == b"first"
            loop.call_soon(theirs.send, b"later")
            assert await receive(loop, ours) == b"later"
            assert not loop.remove_reader(ours)
            loop.call_soon(theirs.close)
            assert await receive(loop, ours) == b""

    run(main())


@pytest.mark.parametrize("receive", RECEIVERS)
def test_cancelling_leaves_the_descriptor_alone(run: Run, receive: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        with ours, theirs:
            task = loop.create_task(receive(loop, ours))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not loop.remove_reader(ours)
            theirs.send(b"x")
            assert await receive(loop, ours) == b"x"

    run(main())


async def _cancelled_when_both_are_ready(waiting: Any, ready: Callable[[], Any]) -> None:
    """Cancel a task in the turn in which the loop wakes it."""
    loop = asyncio.get_running_loop()
    ours, theirs = pair()
    with ours, theirs:
        task = loop.create_task(waiting)
        loop.add_reader(ours, task.cancel)
        await asyncio.sleep(0)
        ready()
        theirs.send(b"now")
        with pytest.raises(asyncio.CancelledError):
            await task
        loop.remove_reader(ours)


@pytest.mark.parametrize("receive", RECEIVERS)
def test_what_a_cancelled_task_would_have_received_is_still_there(run: Run, impl: Any, receive: Any) -> None:
    if not impl.is_rondel:
        pytest.skip("asyncio has received it by then, and drops it")

    async def main() -> None:
        ours, theirs = pair()
        with ours, theirs:
            loop = asyncio.get_running_loop()
            await _cancelled_when_both_are_ready(receive(loop, ours), lambda: theirs.send(b"kept"))
            assert ours.recv(100) == b"kept"

    run(main())


def test_a_connection_that_a_cancelled_task_would_have_accepted_is_still_there(run: Run, impl: Any) -> None:
    if not impl.is_rondel:
        pytest.skip("asyncio has accepted it by then, and drops it")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listening() as listener, socket.socket() as client:
            client.setblocking(False)

            def connect() -> None:
                client.connect_ex(listener.getsockname())

            await _cancelled_when_both_are_ready(loop.sock_accept(listener), connect)
            connection, address = await loop.sock_accept(listener)
            with connection:
                assert address == client.getsockname()

    run(main())


def test_accepting_and_connecting(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listening() as listener, socket.socket() as client:
            client.setblocking(False)
            accepting = loop.create_task(loop.sock_accept(listener))
            await asyncio.sleep(0)
            await loop.sock_connect(client, listener.getsockname())
            connection, address = await accepting
            with connection:
                assert address == client.getsockname() and connection.gettimeout() == 0
                await loop.sock_sendall(client, b"x" * 100)
                assert await loop.sock_recv(connection, 1000) == b"x" * 100

    run(main())


def test_more_than_the_kernel_takes(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        data = bytes(range(256)) * 8000
        ours, theirs = pair()
        with ours, theirs:
            sending = loop.create_task(loop.sock_sendall(ours, data))
            got = bytearray()
            while len(got) < len(data):
                got += await asyncio.wait_for(loop.sock_recv(theirs, 1 << 16), 10)
            assert got == data
            assert await sending is None

    run(main())


def test_datagrams_to_an_address(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as other:
            for sock in (one, other):
                sock.setblocking(False)
                sock.bind(("127.0.0.1", 0))
            assert await loop.sock_sendto(one, b"datagram", other.getsockname()) == 8
            assert await loop.sock_recvfrom(other, 100) == (b"datagram", one.getsockname())
            await loop.sock_sendto(one, b"longer than that", other.getsockname())
            memory = bytearray(100)
            assert await loop.sock_recvfrom_into(other, memory, 6) == (6, one.getsockname())
            assert memory.startswith(b"longer\0")

    run(main())


def test_errors_come_out(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            address = nobody.getsockname()
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(client, address)
        ours, theirs = pair()
        theirs.close()
        with ours, pytest.raises(BrokenPipeError):
            await loop.sock_sendall(ours, b"x")
        for receive in RECEIVERS:
            with pytest.raises(OSError, match="Bad file descriptor"):
                await receive(loop, ours)
        with pytest.raises(OSError, match="Bad file descriptor"):
            await loop.sock_accept(ours)

    run(main())


def test_a_reset_while_it_waits(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listening() as listener, socket.create_connection(listener.getsockname()) as client:
            connection, _ = await loop.sock_accept(listener)
            with connection:
                task = loop.create_task(loop.sock_recv(connection, 100))
                await asyncio.sleep(0)
                linger = (1).to_bytes(4, "little") + bytes(4)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                client.close()
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(task, 10)

    run(main())


@pytest.mark.one_mode
def test_blocking_sockets_are_refused_in_debug_mode(loop: asyncio.AbstractEventLoop) -> None:
    loop.set_debug(True)
    ours, theirs = pair()
    with ours, theirs:
        ours.setblocking(True)
        for call in (
            loop.sock_recv(ours, 1),
            loop.sock_recv_into(ours, bytearray(1)),
            loop.sock_recvfrom(ours, 1),
            loop.sock_recvfrom_into(ours, bytearray(1)),
            loop.sock_accept(ours),
            loop.sock_sendall(ours, b"x"),
        ):
            with pytest.raises(ValueError, match="^the socket must be non-blocking$"):
                loop.run_until_complete(call)


def test_a_transport_keeps_its_descriptor(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        with theirs, pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(ours, 100)
        transport.close()
        await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("fallback", [True, False])
def test_sending_a_file(run: Run, fallback: bool, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        data = bytes(range(256)) * 4000
        path = tmp_path / "file"
        path.write_bytes(data)
        with listening() as listener, socket.create_connection(listener.getsockname()) as client:
            client.setblocking(False)
            connection, _ = await loop.sock_accept(listener)
            with connection, path.open("rb") as file:
                sending = loop.create_task(loop.sock_sendfile(client, file, 100, 900_000, fallback=fallback))
                got = bytearray()
                while len(got) < 900_000:
                    got += await asyncio.wait_for(loop.sock_recv(connection, 1 << 16), 10)
                assert await sending == 900_000
                assert got == data[100:900_100] and file.tell() == 900_100

    run(main())
