"""`gather`: arguments, results, attributes. (Order and turns: test_waits_traces.py.)"""

import asyncio
import gc
import sys
import weakref

import pytest


async def give(value):
    return value


async def forever():
    await asyncio.get_running_loop().create_future()


async def fail(error):
    raise error


def test_all_kinds_of_awaitables(run, aio):
    class Awaitable:
        def __await__(self):
            yield from aio.sleep(0).__await__()
            return "awaited"

    async def main():
        loop = aio.get_running_loop()
        done, later = loop.create_future(), loop.create_future()
        done.set_result("done")
        loop.call_soon(later.set_result, "later")
        stock = asyncio.Future(loop=loop)
        loop.call_soon(stock.set_result, "stock")
        queue = aio.Queue()
        queue.put_nowait("item")
        plain = aio.gather(give(1), aio.create_task(give(2)), done, later, aio.sleep(0, "slept"), queue.get())
        assert await plain == [1, 2, "done", "later", "slept", "item"]
        assert await aio.gather(Awaitable(), stock, give(3)) == ["awaited", "stock", 3]
        nested = aio.gather(aio.gather(give(1), give(2)), aio.gather(), aio.shield(give(3)))
        assert await nested == [[1, 2], [], 3]
        assert await aio.gather(*(give(number) for number in range(1000))) == list(range(1000))

    run(main())


@pytest.mark.parametrize("extra", [0, 30])
def test_what_is_passed_twice_is_one_child(run, aio, extra):
    async def main():
        steps = []

        async def once():
            steps.append(1)
            await aio.sleep(0)
            return object()

        coroutine, task = once(), aio.create_task(once())
        more = [give(number) for number in range(extra)]
        outer = aio.gather(coroutine, task, *more, coroutine, task, task)
        children = outer._children
        assert children[0] is children[2 + extra] and children[1] is task is children[-1]
        results = await outer
        assert len(steps) == 2
        assert results[0] is results[2 + extra]
        assert results[1] is results[-1] is results[-2]
        assert results[2 : 2 + extra] == list(range(extra))

    run(main())


def test_wrong_arguments(run, aio):
    async def main():
        with pytest.raises(TypeError, match="An asyncio.Future, a coroutine or an awaitable is required"):
            aio.gather(1)
        with pytest.raises(TypeError, match=r"gather\(\) got an unexpected keyword argument 'limit'"):
            aio.gather(limit=1)
        other = asyncio.new_event_loop()
        try:
            foreign = other.create_future()
            with pytest.raises(ValueError, match="The future belongs to a different loop"):
                aio.gather(aio.sleep(0), foreign)
        finally:
            other.close()
        await aio.sleep(0)

    run(main())


def test_without_a_running_loop(loop, aio):
    future = loop.create_future()
    outer = aio.gather(future)
    assert outer.get_loop() is loop
    loop.call_soon(future.set_result, 1)
    assert loop.run_until_complete(outer) == [1]


def test_attributes(run, aio):
    async def main():
        task = aio.create_task(forever())
        outer = aio.gather(task, task)
        assert type(outer).__name__ == "_GatheringFuture"
        assert isinstance(outer, asyncio.Future) and aio.isfuture(outer)
        assert repr(outer).startswith("<_GatheringFuture pending")
        assert outer._children == [task, task]
        assert outer._cancel_requested is False
        [(callback, _context)] = task._callbacks
        assert callback.__qualname__ == "gather.<locals>._done_callback"
        assert "cb=[gather.<locals>._done_callback()" in repr(task)
        assert outer.cancel(msg="enough") is True
        assert outer._cancel_requested is True
        assert not outer.done()
        with pytest.raises(aio.CancelledError, match="enough"):
            await outer
        assert outer.cancel() is False
        assert not outer.cancelled()
        with pytest.raises(TypeError):
            outer.cancel(1, 2)

    run(main())


def test_a_callback_that_a_program_removes_is_not_called(run, aio):
    async def main():
        future = aio.get_running_loop().create_future()
        outer = aio.gather(future)
        [(callback, _context)] = future._callbacks
        assert callback == future._callbacks[0][0]
        assert hash(callback) == hash(future._callbacks[0][0])
        assert future.remove_done_callback(callback) == 1
        future.set_result(1)
        await aio.sleep(0)
        await aio.sleep(0)
        assert not outer.done()
        callback(future)
        assert await outer == [1]

    run(main())


def test_errors_nobody_sees_are_reported_as_by_asyncio(run, aio, problems):
    async def main():
        outer = aio.gather(fail(ValueError("first")), fail(ValueError("second")))
        await aio.sleep(0)
        await aio.sleep(0)
        await aio.sleep(0)
        assert outer.done()
        del outer
        gc.collect()
        seen = [(context["message"], str(context["exception"])) for context in problems]
        assert seen == [("_GatheringFuture exception was never retrieved", "first")]
        problems.clear()
        results = await aio.gather(fail(ValueError("third")), forever_cancelled(), return_exceptions=True)
        assert [type(result) for result in results] == [ValueError, aio.CancelledError]
        del results
        gc.collect()
        assert not problems

    async def forever_cancelled():
        raise asyncio.CancelledError("by itself")

    run(main())


def test_eager_tasks(run, aio):
    if sys.version_info < (3, 12):
        pytest.skip("from 3.12 on")

    async def main():
        aio.get_running_loop().set_task_factory(aio.eager_task_factory)
        outer = aio.gather(give(1), give(2))
        assert outer.done() and outer.result() == [1, 2]
        assert await aio.gather(give(1), aio.sleep(0, 2)) == [1, 2]

    run(main())


def test_a_replaced_call_soon_sees_the_callbacks(impl, aio):
    plain = impl.new_event_loop()
    plain.close()
    called = []

    class Watching(type(plain)):
        def call_soon(self, callback, *args, context=None):
            called.append(getattr(callback, "__qualname__", ""))
            return super().call_soon(callback, *args, context=context)

    loop = Watching()

    async def main():
        futures = [loop.create_future() for _ in range(3)]
        outer = aio.gather(*futures)
        for number, future in enumerate(futures):
            future.set_result(number)
        assert await outer == [0, 1, 2]

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert called.count("gather.<locals>._done_callback") == 3


def test_cycles_are_freed(run, aio):
    class Marker:
        pass

    async def main():
        alive = []
        for _ in range(10):
            marker = Marker()
            alive.append(weakref.ref(marker))
            futures = [aio.get_running_loop().create_future() for _ in range(3)]
            outer = aio.gather(*futures)
            # A cycle from a child back to the child.
            futures[0].marker = marker
            marker.outer = outer
        del marker, futures, outer
        await aio.sleep(0)
        await aio.sleep(0)
        gc.collect()
        assert [ref() for ref in alive if ref()] == []

    run(main())
