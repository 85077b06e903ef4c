"""Cases of `in_process.py` that move many bytes: an operation is 64 KiB.

In `bulk-tcp` and `bulk-unix` both ends are in the measured process, protocols on one loop. In `sendfile` the bytes go to a child
process that throws them away, so that what is measured is the sending.
"""

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHUNK = 64 * 1024
#: Chunks of the file that `sendfile` sends, 64 MiB together.
FILE_CHUNKS = 1024


async def bulk_tcp(asyncio: Any, count: int) -> int:
    """64 KiB writes over TCP, as fast as flow control lets them."""
    loop = asyncio.get_running_loop()

    async def serve(factory: Callable[[], Any]) -> tuple[Any, Callable[[Callable[[], Any]], Any]]:
        listener, ours = socket.create_server(("127.0.0.1", 0)), socket.socket()
        for sock in (listener, ours):
            _do_not_pace(sock)
            sock.setblocking(False)
        address = listener.getsockname()
        server = await loop.create_server(factory, sock=listener)
        await loop.sock_connect(ours, address)
        return server, lambda client: loop.create_connection(client, sock=ours)

    return await _bulk(asyncio, count, serve)


def _do_not_pace(sock: socket.socket) -> None:
    """Have the kernel's usual congestion control, whatever this machine's default is.

    BBR paces what it sends by timers. Within one machine that has two states, one of which costs 2.5 times the other, and
    chance decides which a connection gets into: the same program measures 7 or 18 µs for 64 KiB.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


async def bulk_unix(asyncio: Any, count: int) -> int:
    """64 KiB writes over a Unix socket, as fast as flow control lets them."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "socket")

        async def serve(factory: Callable[[], Any]) -> tuple[Any, Callable[[Callable[[], Any]], Any]]:
            server = await loop.create_unix_server(factory, path)
            return server, lambda client: loop.create_unix_connection(client, path)

        return await _bulk(asyncio, count, serve)


async def _bulk(asyncio: Any, count: int, serve: Any) -> int:
    loop = asyncio.get_running_loop()
    received = 0
    done = loop.create_future()

    class Receiver(asyncio.Protocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            nonlocal received
            received += len(data)

        def connection_lost(self, exc: Exception | None) -> None:
            done.set_result(None)

    class Sender(asyncio.Protocol):  # type: ignore[misc]
        def __init__(self) -> None:
            self.may_write = asyncio.Event()
            self.may_write.set()

        def pause_writing(self) -> None:
            self.may_write.clear()

        def resume_writing(self) -> None:
            self.may_write.set()

    server, connect = await serve(Receiver)
    transport, sender = await connect(Sender)
    chunk = bytes(CHUNK)
    for _ in range(count):
        transport.write(chunk)
        if not sender.may_write.is_set():
            await sender.may_write.wait()
    transport.close()
    await done
    server.close()
    if received != count * CHUNK:
        raise RuntimeError(f"{received} bytes came, {count * CHUNK} expected")
    return count


async def sendfile(asyncio: Any, count: int) -> int:
    """A file of 64 MiB, sent by `loop.sendfile` as often as it takes."""
    loop = asyncio.get_running_loop()
    ours, theirs = _tcp_pair()
    child = _drain(theirs, ours)
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    done = 0
    with tempfile.TemporaryFile() as file:
        file.truncate(FILE_CHUNKS * CHUNK)
        while done < count:
            sent = await loop.sendfile(transport, file, 0, FILE_CHUNKS * CHUNK, fallback=False)
            if sent != FILE_CHUNKS * CHUNK:
                raise RuntimeError(f"{sent} bytes were sent, {FILE_CHUNKS * CHUNK} expected")
            done += FILE_CHUNKS
    transport.close()
    await asyncio.sleep(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError("the process that receives has failed")
    return done


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.socket()
        _do_not_pace(ours)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    return ours, theirs


def _drain(theirs: socket.socket, ours: socket.socket) -> int:
    """Starts a process that receives until the connection ends."""
    child = os.fork()
    if child == 0:
        ours.close()
        memory = bytearray(1 << 20)
        try:
            while theirs.recv_into(memory):
                pass
        except BaseException:
            os._exit(1)
        os._exit(0)
    theirs.close()
    return child
