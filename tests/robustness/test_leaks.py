"""Leaks: descriptors, objects and memory are counted before and after loops and connections."""

import asyncio
import collections
import ctypes
import gc
import os
import resource
import socket
import warnings
import weakref

import pytest


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def objects():
    """Count the objects of each of Rondel's and asyncio's types that the collector tracks."""
    gc.collect()
    gc.collect()
    return collections.Counter(
        f"{type(each).__module__}.{type(each).__qualname__}"
        for each in gc.get_objects()
        if type(each).__module__.partition(".")[0] in ("asyncio", "_asyncio", "rondel")
    )


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


async def exercise(aio):
    """Use a little of everything."""

    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def visit(number):
        reader, writer = await aio.open_connection(*address)
        writer.write(b"%d\n" % number)
        assert await reader.readline() == b"%d\n" % number
        writer.close()
        await writer.wait_closed()

    async with await aio.start_server(handle, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        await aio.gather(*(visit(number) for number in range(5)))
    with pytest.raises(TimeoutError):
        await aio.wait_for(aio.get_running_loop().create_future(), 0.001)
    cancelled = aio.create_task(aio.sleep(60))
    await aio.sleep(0)
    cancelled.cancel()
    failed = aio.create_task(aio.wait_for(failing(), 1))
    await aio.wait([cancelled, failed])
    failed.exception()
    await aio.to_thread(int)
    aio.get_running_loop().call_later(3600, print, "never")
    with pytest.raises(ConnectionRefusedError):
        await aio.open_connection(*address)


async def failing():
    raise ValueError("expected")


def test_whole_loops_leave_nothing(run, aio, problems):
    run(exercise(aio))
    before_objects, before_descriptors = objects(), descriptors()
    for _ in range(3):
        run(exercise(aio))
    problems.clear()
    grown = objects() - before_objects
    assert not grown
    assert descriptors() == before_descriptors


def test_a_closed_loop_is_freed(impl):
    class Marker:
        pass

    loop = impl.new_event_loop()
    marker = Marker()
    alive = weakref.ref(marker)
    loop.marker = marker

    async def main():
        await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    loop.close()
    del loop, marker
    gc.collect()
    assert alive() is None


def test_a_loop_that_never_ran_is_freed(impl):
    before = descriptors()
    for _ in range(20):
        loop = impl.new_event_loop()
        loop.call_later(10, print, loop)
        loop.close()
    del loop
    gc.collect()
    assert descriptors() == before


def test_what_waits_in_a_closed_loop_is_freed(impl, recwarn):
    class Marker:
        pass

    alive = []

    async def wait(marker):
        await asyncio.get_running_loop().create_future()

    loop = impl.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    for _ in range(10):
        marker = Marker()
        alive.append(weakref.ref(marker))
        loop.create_task(wait(marker))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    del loop, marker
    gc.collect()
    assert [ref() for ref in alive if ref() is not None] == []


@pytest.mark.one_mode
def test_memory_does_not_grow_with_the_number_of_calls(impl):
    loop = impl.new_event_loop()

    async def work():
        for _ in range(100):
            await asyncio.sleep(0)
            future = loop.create_future()
            loop.call_soon(future.set_result, "x" * 100)
            await future
            loop.call_later(1000, print).cancel()
            await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    async def main(rounds):
        for _ in range(rounds):
            await asyncio.create_task(work())

    loop.run_until_complete(main(20))
    gc.collect()
    before = resident()
    loop.run_until_complete(main(200))
    gc.collect()
    grown = resident() - before
    loop.close()
    # 20,000 rounds of the above: 8 MB would be 400 bytes per round.
    assert grown < 8_000_000


@pytest.mark.one_mode
class Numbers(ctypes.Structure):
    """The result of glibc's mallinfo2."""

    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
if mallinfo is not None:
    mallinfo.restype = Numbers


def allocated():
    """The number of bytes that the C library has allocated."""
    if mallinfo is None:
        pytest.skip("this C library doesn't say what it has given away")
    gc.collect()
    return mallinfo().uordblks


def test_a_closed_loop_leaves_no_memory(impl, aio):
    async def main():
        queue = aio.Queue()
        # Waiters are kept in a pool for reuse, and some are taken out again.
        waiting = [aio.ensure_future(queue.get()) for _ in range(5)]
        await aio.sleep(0)
        for task in waiting[:3]:
            queue.put_nowait(task)
        await aio.wait(waiting[:3])
        # Responses on several connections, sent together, in pieces.
        loop = aio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(5)]
        transports = [(await loop.create_connection(asyncio.Protocol, sock=ours))[0] for ours, _ in pairs]
        for transport in transports:
            transport.write(b"one")
            transport.write(b"other")
        await aio.sleep(0)
        for (_, theirs), transport in zip(pairs, transports, strict=True):
            loop.add_reader(theirs, theirs.recv, 100)
            await aio.sleep(0)
            loop.remove_reader(theirs)
            transport.close()
            theirs.close()
        await aio.sleep(0)
        return waiting[3:]

    def once():
        loop = impl.new_event_loop()
        left = loop.run_until_complete(main())
        for task in left:
            task.cancel()
        loop.run_until_complete(aio.wait(left))
        loop.close()

    # Tables that all loops share grow occasionally.
    grown = []
    while len(grown) < 5 and not any(size < 50 * 200 for size in grown):
        before = allocated()
        for _ in range(50):
            once()
        grown.append(allocated() - before)
    assert any(size < 50 * 200 for size in grown), grown


def test_thousands_of_closed_connections_are_freed(run, aio):
    async def main():
        count = 0

        async def handle(reader, writer):
            nonlocal count
            count += 1
            await reader.read()
            writer.close()
            await writer.wait_closed()

        async def visit():
            async with gate:
                reader, writer = await aio.open_connection(*address)
                writer.close()
                await writer.wait_closed()

        gate = aio.Semaphore(20)
        async with await aio.start_server(handle, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            await aio.gather(*(visit() for _ in range(200)))
            while len(aio.all_tasks()) > 1:
                await aio.sleep(0.001)
            before_objects, before_descriptors = objects(), descriptors()
            await aio.gather(*(visit() for _ in range(2000)))
            while len(aio.all_tasks()) > 1:
                await aio.sleep(0.001)
            await aio.sleep(0.001)
            grown = {name: more for name, more in (objects() - before_objects).items() if more > 5}
            assert not grown
            assert descriptors() == before_descriptors
        assert count == 2200

    run(main())


def _fresh(aio, kind, owner):
    return {
        "acquire": lambda: aio.Lock().acquire(),
        "put": lambda: aio.Queue().put(owner),
        "sleep": lambda: aio.sleep(1, owner),
    }[kind]()


@pytest.mark.parametrize("kind", ["acquire", "put", "sleep"])
def test_awaitable_that_was_never_begun_is_collected_from_a_cycle(aio, kind):
    class Owner:
        pass

    owner = Owner()
    owner.awaitable = _fresh(aio, kind, owner)
    reference = weakref.ref(owner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        del owner
        gc.collect()
    assert reference() is None


def test_awaitables_that_were_never_begun_are_collected_one_after_another(aio):
    class Owner:
        pass

    references = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for kind in ["acquire", "put", "sleep"] * 3:
            owner = Owner()
            owner.awaitable = _fresh(aio, kind, owner)
            references.append(weakref.ref(owner))
        del owner
        gc.collect()
    assert [reference() for reference in references] == [None] * 9


def test_suspended_awaitable_is_collected_from_a_cycle(aio):
    class Owner:
        pass

    async def hold(owner, lock):
        owner.task = asyncio.current_task()
        await lock.acquire()

    async def main():
        lock = aio.Lock()
        await lock.acquire()
        owner = Owner()
        task = asyncio.create_task(hold(owner, lock))
        await aio.sleep(0)
        task._log_destroy_pending = False
        reference = weakref.ref(owner)
        del task, owner, lock
        gc.collect()
        return reference() is None

    assert asyncio.run(main())
