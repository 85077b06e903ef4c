"""Large mutable buffers.

From 3.12 on a transport keeps the buffer itself until it is sent, not a copy.
"""

import asyncio
import contextlib
import gc
import socket
import sys
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

SIZE = 8 * 1024 * 1024
KEEPS = sys.version_info >= (3, 12)

KINDS = {"bytearray": lambda data: data, "memoryview": memoryview, "part": lambda data: memoryview(data)[1:-1]}
WAYS = {
    "write": lambda transport, data: transport.write(data),
    "writelines": lambda transport, data: transport.writelines([b"first", data, b"last"]),
}
kinds = pytest.mark.parametrize("kind", KINDS)
ways = pytest.mark.parametrize("way", WAYS)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Any, socket.socket]]:
    """A transport, and its peer, a non-blocking socket."""
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    with peer:
        try:
            yield transport, peer
        finally:
            transport.abort()
            await asyncio.sleep(0)


async def received(transport: Any, peer: socket.socket) -> bytearray:
    """Return all that was written."""
    got = bytearray()
    while True:
        try:
            got += peer.recv(1 << 20)
        except BlockingIOError:
            if not transport.get_write_buffer_size():
                return got
            await asyncio.sleep(0)


def pattern() -> bytearray:
    return bytearray(range(256)) * (SIZE // 256)


def expected(kind: str, way: str, data: bytearray) -> bytes:
    sent = bytes(KINDS[kind](data))
    return sent if way == "write" else b"first" + sent + b"last"


@kinds
@ways
def test_it_arrives(run, kind, way):
    async def main() -> None:
        async with connected() as (transport, peer):
            data = pattern()
            for _ in range(2):
                WAYS[way](transport, KINDS[kind](data))
            assert transport.get_write_buffer_size() > SIZE
            transport.write(b"end")
            assert await received(transport, peer) == expected(kind, way, data) * 2 + b"end"
            data.append(0)  # there is no view of it any more

    run(main())


@pytest.mark.skipif(not KEEPS, reason="up to 3.11 asyncio copies")
@kinds
@ways
def test_it_is_not_copied(run, kind, way):
    async def main() -> None:
        async with connected() as (transport, _peer):
            data = pattern()
            tracemalloc.start()
            try:
                for _ in range(3):
                    WAYS[way](transport, KINDS[kind](data))
                await asyncio.sleep(0)
                assert tracemalloc.get_traced_memory()[1] < SIZE // 4
            finally:
                tracemalloc.stop()

    run(main())


@kinds
@ways
def test_what_waits_is_the_programs_own_memory(run, kind, way):
    async def main() -> None:
        async with connected() as (transport, peer):
            data = pattern()
            WAYS[way](transport, KINDS[kind](data))
            before = expected(kind, way, data)
            data[-2] ^= 0xFF  # the kernel has not received these bytes yet
            after = expected(kind, way, data)
            if KEEPS:
                with pytest.raises(BufferError):
                    data.append(0)
            assert await received(transport, peer) == (after if KEEPS else before)
            data.append(0)

    run(main())


@kinds
@pytest.mark.parametrize("end", ["abort", "peer"])
def test_it_is_let_go_when_the_connection_ends(run, kind, end):
    async def main() -> None:
        async with connected() as (transport, peer):
            data = pattern()
            transport.write(KINDS[kind](data))
            transport.write(KINDS[kind](data))
            if end == "peer":
                peer.close()
                while not transport.is_closing():
                    await asyncio.sleep(0)
            else:
                transport.abort()
            data.append(0)

    run(main())
    gc.collect()


def test_a_view_of_the_programs_may_be_released(run):
    async def main() -> None:
        async with connected() as (transport, peer):
            data = pattern()
            with memoryview(data) as view:
                transport.write(view)
            assert await received(transport, peer) == data

    run(main())


def test_what_is_not_contiguous(run, problems):
    """asyncio notices when it sends, and closes the connection."""

    async def main() -> None:
        async with connected() as (transport, _peer):
            transport.write(memoryview(pattern())[::2])
            assert transport.is_closing()

    run(main())
    (context,) = problems
    assert isinstance(context["exception"], BufferError)


class Final(bytearray):
    """A buffer that calls a function when it is destroyed, possibly during sending."""

    transport: Any
    died: list[str]

    def __del__(self) -> None:
        self.transport.write(b"last words")
        self.died.append(str(self.transport.get_write_buffer_size() > 0))


@pytest.mark.parametrize("size", [SIZE, 100_000])
def test_what_is_kept_may_die_while_it_is_sent(run, size):
    async def main() -> None:
        async with connected() as (transport, peer):
            died: list[str] = []
            data = Final(b"x" * size)
            data.transport, data.died = transport, died
            transport.write(data)
            del data
            # The peer may have received it all before the buffer is destroyed.
            got = await received(transport, peer)
            got += await received(transport, peer)
            assert got == b"x" * size + b"last words"
            assert len(died) == 1

    run(main())


def test_what_is_kept_may_be_part_of_a_cycle(impl, run):
    class Data(bytearray):
        pass

    class Protocol(asyncio.Protocol):
        pass

    async def main() -> None:
        ours, peer = socket.socketpair()
        with peer:
            transport, protocol = await asyncio.get_running_loop().create_connection(Protocol, sock=ours)
            data = Data(SIZE)
            data.transport = transport
            transport.write(data)
            protocol.data = data
            transport.abort()
            await asyncio.sleep(0)

    run(main())
    gc.collect()
    assert not any(type(found) is Data for found in gc.get_objects())
