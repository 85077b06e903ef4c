"""`wait`: arguments, results, remaining callbacks. (Order and turns: test_waits_traces.py.)"""

import asyncio
import gc
import weakref

import pytest


async def give(value):
    return value


async def forever():
    await asyncio.get_running_loop().create_future()


async def fail(error):
    raise error


async def cancel(aio, *tasks):
    for task in tasks:
        task.cancel()
    await aio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("make", [list, tuple, set, frozenset, dict.fromkeys, iter], ids=lambda make: str(make))
def test_any_iterable(run, aio, make):
    async def main():
        tasks = [aio.create_task(give(number)) for number in range(3)]
        done, pending = await aio.wait(make(tasks))
        assert type(done) is type(pending) is set
        assert done == set(tasks) and pending == set()
        done, pending = await aio.wait(make(tasks), timeout=None, return_when=aio.ALL_COMPLETED)
        assert done == set(tasks) and pending == set()

    run(main())


def test_return_when(run, aio):
    async def main():
        quick, slow = aio.create_task(give(1)), aio.create_task(forever())
        assert await aio.wait([quick, slow], return_when=aio.FIRST_COMPLETED) == ({quick}, {slow})
        failing, quick = aio.create_task(fail(ValueError())), aio.create_task(give(1))
        assert await aio.wait([quick, failing, slow], return_when="FIRST_EXCEPTION") == ({quick, failing}, {slow})
        quick = aio.create_task(give(1))
        waiting = aio.create_task(aio.wait([quick, slow], return_when=aio.FIRST_EXCEPTION))
        for _ in range(5):
            await aio.sleep(0)
        assert quick.done() and not waiting.done()
        slow.cancel()
        assert await waiting == ({quick, slow}, set())

    run(main())


def test_timeout(run, aio):
    async def main():
        loop = aio.get_running_loop()
        slow = aio.create_task(forever())
        for timeout in (0, 0.001, -1):
            assert await aio.wait([slow], timeout=timeout) == (set(), {slow})
            assert slow._callbacks is None or len(slow._callbacks) == 0
        quick = aio.create_task(give(1))
        assert await aio.wait([quick], timeout=1000) == ({quick}, set())
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]
        await cancel(aio, slow)

    run(main())


def test_wrong_arguments(run, aio):
    async def main():
        future = aio.get_running_loop().create_future()
        with pytest.raises(TypeError, match=f"expect a list of futures, not {type(future).__name__}"):
            await aio.wait(future)
        coroutine = give(1)
        with pytest.raises(TypeError, match="expect a list of futures, not coroutine"):
            await aio.wait(coroutine)
        with pytest.raises(TypeError, match="Passing coroutines is forbidden, use tasks explicitly."):
            await aio.wait([coroutine])
        coroutine.close()
        for empty in ([], (), set()):
            with pytest.raises(ValueError, match="Set of Tasks/Futures is empty."):
                await aio.wait(empty)
        with pytest.raises(ValueError, match="Invalid return_when value: -1"):
            await aio.wait([future], return_when=-1)
        with pytest.raises(AssertionError, match="Set of Futures is empty."):
            await aio.wait(iter([]))
        with pytest.raises(TypeError, match="'int' object is not iterable"):
            await aio.wait(1)
        with pytest.raises(AttributeError, match="'int' object has no attribute 'add_done_callback'"):
            await aio.wait([1])
        with pytest.raises(TypeError, match=r"wait\(\) missing 1 required positional argument: 'fs'"):
            await aio.wait()
        with pytest.raises(TypeError, match=r"wait\(\) takes 1 positional argument but 2 were given"):
            await aio.wait([future], 1)
        with pytest.raises(TypeError, match=r"wait\(\) got an unexpected keyword argument 'loop'"):
            await aio.wait([future], loop=None)

    run(main())


def test_futures_of_others(run, aio):
    async def main():
        loop = aio.get_running_loop()
        stock, ours = asyncio.Future(loop=loop), loop.create_future()
        loop.call_soon(stock.set_result, 1)
        assert await aio.wait([stock, ours], return_when=aio.FIRST_COMPLETED) == ({stock}, {ours})
        assert not ours._callbacks
        failed = asyncio.Future(loop=loop)
        loop.call_soon(failed.set_exception, ValueError())
        assert await aio.wait([failed, ours], return_when=aio.FIRST_EXCEPTION) == ({failed}, {ours})
        loop.call_soon(ours.set_result, 1)
        assert await aio.wait([failed, ours, stock]) == ({failed, ours, stock}, set())

    run(main())


def test_the_callbacks_go_with_a_cancelled_wait(run, aio):
    async def main():
        futures = [aio.get_running_loop().create_future() for _ in range(3)]
        seen = []
        futures[0].add_done_callback(seen.append)
        waiting = aio.create_task(aio.wait(futures, timeout=1000))
        await aio.sleep(0)
        assert futures[1]._callbacks[0][0].__qualname__ == "_wait.<locals>._on_completion"
        futures[0].add_done_callback(seen.append)
        assert [len(future._callbacks) for future in futures] == [3, 1, 1]
        waiting.cancel("enough")
        with pytest.raises(aio.CancelledError, match="enough"):
            await waiting
        assert [len(future._callbacks or ()) for future in futures] == [2, 0, 0]
        futures[0].set_result(1)
        await aio.sleep(0)
        assert seen == [futures[0]] * 2

    run(main())


def test_an_exception_counts_as_seen_only_where_it_is_looked_at(run, aio, problems):
    async def main():
        for mode in (aio.ALL_COMPLETED, aio.FIRST_COMPLETED, aio.FIRST_EXCEPTION):
            other = aio.create_task(forever())
            task = aio.create_task(fail(ValueError(mode)))
            await aio.wait([task] if mode == aio.ALL_COMPLETED else [task, other], return_when=mode)
            del task
            gc.collect()
            await cancel(aio, other)
        assert [str(context["exception"]) for context in problems] == [aio.ALL_COMPLETED, aio.FIRST_COMPLETED]
        problems.clear()

    run(main())


def test_a_wait_is_freed(run, aio):
    class Marker:
        pass

    async def main():
        marker = Marker()
        alive = weakref.ref(marker)
        future = aio.get_running_loop().create_future()
        future.marker = marker
        waiting = aio.create_task(aio.wait([future, aio.get_running_loop().create_future()], timeout=1000))
        await aio.sleep(0)
        waiting.cancel()
        for _ in range(3):
            await aio.sleep(0)
        assert waiting.cancelled()
        del marker, future, waiting
        gc.collect()
        assert alive() is None

    run(main())
