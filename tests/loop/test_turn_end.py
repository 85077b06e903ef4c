"""Data written in a turn is sent at its end, or earlier: never later, never twice, always once."""

import asyncio
import contextlib
import functools
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from child_programs import output
from unseen import received_unseen as received

Pair = tuple[Any, socket.socket]


async def connect() -> Pair:
    """A TCP transport, and its peer, a non-blocking socket."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    ours.setblocking(False)
    peer.setblocking(False)
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    return transport, peer


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Pair]:
    transport, peer = await connect()
    with peer:
        try:
            yield transport, peer
        finally:
            transport.abort()
            await asyncio.sleep(0)


def in_one_turn(*steps: Any) -> "asyncio.Future[None]":
    """Run functions as callbacks of one turn; return in the next turn."""
    loop = asyncio.get_running_loop()
    for step in steps:
        loop.call_soon(step)
    done = loop.create_future()
    loop.call_soon(lambda: loop.call_soon(done.set_result, None))
    return done


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 150])
def test_what_many_write_in_a_turn_has_left_when_it_ends(run, count):
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            pairs = [await stack.enter_async_context(connected()) for _ in range(count)]
            steps = []
            for number, (transport, _) in enumerate(pairs):
                steps += [
                    lambda t=transport, n=number: t.write(b"%d" % n),
                    lambda t=transport: t.writelines([b",", b"end"]),
                ]
            await in_one_turn(*steps)
            assert [received(peer) for _, peer in pairs] == [b"%d,end" % number for number in range(count)]

    run(main())


def test_what_is_written_after_a_look_at_the_buffer_leaves_as_well(run):
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            pairs = [await stack.enter_async_context(connected()) for _ in range(5)]

            def write_and_look() -> None:
                for transport, _ in pairs:
                    for part in (b"a", b"b", b"c"):
                        transport.write(part)
                        transport.get_write_buffer_size()
                    transport.write(b"d")

            await in_one_turn(write_and_look, write_and_look)
            assert [received(peer) for _, peer in pairs] == [b"abcdabcd"] * 5

    run(main())


def test_what_a_long_step_writes_does_not_wait_for_the_next(run):
    async def main() -> None:
        async with connected() as (transport, peer):
            got = []

            def work() -> None:
                transport.write(b"answer")
                end = time.perf_counter() + 0.03  # several ticks of the coarse clock
                while time.perf_counter() < end:
                    pass

            await in_one_turn(work, lambda: got.append(received(peer)))
            assert got == [b"answer"]

    run(main())


def test_what_many_write_does_not_pile_up(run):
    """More than 256 KiB, of all connections together, are sent before the turn ends."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            pairs = [await stack.enter_async_context(connected()) for _ in range(14)]
            got: list[int] = []
            steps = [lambda t=transport: t.write(bytes(20_000)) for transport, _ in pairs]
            await in_one_turn(*steps, lambda: got.extend(len(received(peer)) for _, peer in pairs))
            # If the clock ticks between two steps, the data so far is sent: then less than the
            # limit may wait.
            assert len(pairs) * 20_000 - sum(got) < 256 * 1024

    run(main())


@pytest.mark.parametrize("ask", ["get_write_buffer_size", "_buffer", "close", "abort", "write_eof"])
def test_what_depends_on_sending_sends_first(run, ask):
    async def main() -> None:
        async with connected() as (transport, peer):
            got = []

            def step() -> None:
                transport.write(b"x")
                value = getattr(transport, ask)
                if callable(value):
                    value()
                got.append(received(peer))

            await in_one_turn(step)
            assert got == [b"x"]

    run(main())


def test_a_large_write_does_not_wait(run):
    async def main() -> None:
        async with connected() as (transport, peer):
            got = []

            def step() -> None:
                transport.write(bytes(200_000))
                got.append(len(received(peer)))

            await in_one_turn(step)
            assert got[0] > 0

    run(main())


def test_asking_whether_it_closes_does_not_part_what_is_written_together(run, impl):
    def step(transport: Any, peer: socket.socket, got: list[bytes]) -> None:
        transport.write(b"head")
        assert not transport.is_closing()
        got.append(received(peer))
        transport.write(b"body")

    async def main() -> None:
        expected = [b"", b"headbody"] if impl.is_rondel else [b"head", b"body"]
        async with connected() as (transport, peer):
            for _ in range(100):
                got: list[bytes] = []
                await in_one_turn(functools.partial(step, transport, peer, got))
                got.append(received(peer))
                if got == expected:
                    return
                # On a busy machine a step may last so long that its data is sent.
                assert b"".join(got) == b"headbody"
            raise AssertionError("they are never sent together")

    run(main())


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_a_turn_that_is_broken_off(loop, end):
    def leave() -> None:
        raise end(3)

    transport, peer = loop.run_until_complete(connect())
    with peer:
        loop.call_soon(transport.write, b"last words")
        loop.call_soon(leave)
        with pytest.raises(end):
            loop.run_forever()
        assert received(peer) == b"last words"
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))


def test_a_loop_that_is_stopped_in_the_turn(loop):
    transport, peer = loop.run_until_complete(connect())
    with peer:
        loop.call_soon(loop.stop)
        loop.call_soon(transport.write, b"last words")
        loop.run_forever()
        assert received(peer) == b"last words"
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))


def test_a_write_that_fails_when_the_turn_ends(run):
    class Protocol(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(exc)

    lost: list[Exception | None] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        transport, _ = await loop.create_connection(Protocol, sock=ours)
        transport.pause_reading()
        peer.close()
        await in_one_turn(lambda: transport.write(b"into the void"))
        assert transport.is_closing()
        await asyncio.sleep(0)
        assert [type(exc) for exc in lost] == [BrokenPipeError]

    run(main())


def test_asking_whether_it_closes_right_after_a_write_that_fails(run):
    async def main() -> None:
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        transport.pause_reading()
        peer.close()
        assert not transport.is_closing()
        transport.write(b"into the void")
        assert transport.is_closing()
        await asyncio.sleep(0)

    run(main())


@pytest.fixture
def no_warning_of_forks() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def test_what_was_written_before_a_fork_leaves_once(run, no_warning_of_forks):
    async def main() -> None:
        async with connected() as (transport, peer):
            got = []

            def fork() -> None:
                pid = os.fork()
                if not pid:
                    # Whatever the child does with the transport, it must not send data from before
                    # the fork.
                    transport.get_write_buffer_size()
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
                got.append(received(peer))

            await in_one_turn(lambda: transport.write(b"once"), fork)
            got.append(received(peer))
            assert got == [b"once", b""]

    run(main())


@pytest.mark.parametrize("way", ["0", "1"])
def test_with_and_without_io_uring(impl, monkeypatch, way):
    """Without io_uring, which kernel or environment may forbid, each socket has its own call."""
    monkeypatch.setenv("RONDEL_IO_URING", way)
    out = output(
        impl,
        """
        import os, socket, warnings
        warnings.simplefilter("ignore")

        def rings():
            count = 0
            for fd in os.listdir("/proc/self/fd"):
                try:
                    count += "io_uring" in os.readlink(f"/proc/self/fd/{fd}")
                except FileNotFoundError:
                    pass
            return count

        async def exchange():
            loop = asyncio.get_running_loop()
            pairs = []
            for _ in range(100):
                ours, peer = socket.socketpair()
                ours.setblocking(False)
                peer.settimeout(5)
                pairs.append(((await loop.create_connection(asyncio.Protocol, sock=ours))[0], peer))
            for turn in range(3):
                for number, (transport, _) in enumerate(pairs):
                    loop.call_soon(transport.write, b"%d " % number * (turn + 1) * 200)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                for number, (_, peer) in enumerate(pairs):
                    expected = b"%d " % number * (turn + 1) * 200
                    got = b""
                    while len(got) < len(expected):
                        got += peer.recv(100_000)
                    assert got == expected
            for transport, peer in pairs:
                transport.abort()
                peer.close()
            await asyncio.sleep(0)

        async def main():
            await exchange()
            before = rings()
            pid = os.fork()
            if not pid:
                # The child's first loop does not use the parent's ring; the next makes its own.
                asyncio.run(exchange())
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            await exchange()
            print(before, rings() == before)

        asyncio.run(main())
        print(rings())
        """,
    )
    allowed = out.startswith("1")
    assert out == f"{int(allowed)} True\n0\n"
    assert not (allowed and (way == "0" or not impl.is_rondel))
