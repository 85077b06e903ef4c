"""`as_completed`: arguments and results. (Order and turns: test_waits_traces.py.)"""

import asyncio
import gc
import sys
import types
import weakref

import pytest

from_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="from 3.13 on")
up_to_3_12 = pytest.mark.skipif(sys.version_info >= (3, 13), reason="up to 3.12")


async def give(value):
    return value


async def fail(error):
    raise error


def test_results_and_exceptions(run, aio):
    async def main():
        loop = aio.get_running_loop()
        stock = asyncio.Future(loop=loop)
        loop.call_soon(stock.set_result, "stock")
        awaitables = [give(1), aio.create_task(give(2)), aio.sleep(0, 3), stock]
        results = [await each for each in aio.as_completed(awaitables)]
        assert set(results) == {1, 2, 3, "stock"}
        for each in aio.as_completed([fail(ValueError("one"))], timeout=10):
            with pytest.raises(ValueError, match="one"):
                await each
        assert list(aio.as_completed([])) == []
        task = aio.create_task(give(1))
        assert [await each for each in aio.as_completed([task, task])] == [1]
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]

    run(main())


def test_timeout(run, aio):
    async def main():
        future = aio.get_running_loop().create_future()
        outcomes = []
        for each in aio.as_completed([give("quick"), future], timeout=0.05):
            try:
                outcomes.append(await each)
            except TimeoutError as error:
                outcomes.append(error.args)
        assert outcomes == ["quick", ()]
        assert not future._callbacks
        future.set_result("too late")

    run(main())


def test_awaitables_may_be_awaited_in_any_order(run, aio):
    async def main():
        futures = [aio.get_running_loop().create_future() for _ in range(3)]
        waiting = [aio.create_task(wait(each)) for each in aio.as_completed(futures)]
        await aio.sleep(0)
        waiting[0].cancel()
        for number in (2, 0, 1):
            futures[number].set_result(number)
        assert await aio.gather(*waiting[1:]) == [2, 0]
        assert waiting[0].cancelled()

    async def wait(each):
        return await each

    run(main())


def test_one_that_is_never_awaited_warns(run, aio):
    async def main():
        iterator = iter(aio.as_completed([give(1)]))
        with pytest.warns(RuntimeWarning, match=r"coroutine '.*_wait_for_one' was never awaited"):
            next(iterator)
        for _ in range(3):
            await aio.sleep(0)

    run(main())


def test_wrong_arguments(run, aio):
    what = "expects an iterable of awaitables" if sys.version_info >= (3, 13) else "expect an iterable of futures"

    async def main():
        future, coroutine = aio.get_running_loop().create_future(), give(1)
        for wrong in (future, coroutine):
            with pytest.raises(TypeError, match=f"{what}, not {type(wrong).__name__}"):
                next(iter(aio.as_completed(wrong)))
        coroutine.close()
        with pytest.raises(TypeError, match="An asyncio.Future, a coroutine or an awaitable is required"):
            next(iter(aio.as_completed([1])))
        with pytest.raises(TypeError, match=r"as_completed\(\) missing 1 required positional argument: 'fs'"):
            aio.as_completed()
        with pytest.raises(TypeError, match=r"as_completed\(\) takes 1 positional argument but 2 were given"):
            aio.as_completed([], 1)
        other = asyncio.new_event_loop()
        try:
            foreign = other.create_future()
            with pytest.raises(ValueError, match="The future belongs to a different loop"):
                next(iter(aio.as_completed([foreign])))
        finally:
            other.close()

    run(main())


@up_to_3_12
def test_a_generator_starts_nothing_by_itself(run, aio):
    async def main():
        started = []

        async def work():
            started.append(1)

        coroutine = work()
        iterator = aio.as_completed([coroutine])
        assert isinstance(iterator, types.GeneratorType)
        await aio.sleep(0)
        await aio.sleep(0)
        assert not started
        iterator.close()
        coroutine.close()

    run(main())


@from_3_13
def test_the_iterator(run, aio):
    async def main():
        future = aio.get_running_loop().create_future()
        iterator = aio.as_completed([future, give(1)], timeout=10)
        assert type(iterator).__name__ == "_AsCompletedIterator"
        assert iter(iterator) is iterator and iterator.__aiter__() is iterator
        assert iterator._todo_left == 2 and len(iterator._todo) == 2
        assert isinstance(iterator._done, asyncio.Queue)
        assert isinstance(iterator._timeout_handle, asyncio.TimerHandle)
        callback = future._callbacks[0][0]
        assert callback.__qualname__ == "_AsCompletedIterator._handle_completion"
        assert await next(iterator) == 1
        assert iterator._todo_left == 1 and iterator._todo == {future}
        future.set_result(2)
        assert await anext(iterator) is future
        with pytest.raises(StopIteration):
            next(iterator)
        with pytest.raises(StopAsyncIteration):
            await anext(iterator)

    run(main())


@from_3_13
def test_async_iteration_gives_the_futures(run, aio):
    async def main():
        tasks = [aio.create_task(give(number)) for number in range(3)]
        seen = [future async for future in aio.as_completed(tasks)]
        assert sorted(map(id, seen)) == sorted(map(id, tasks)) and all(task.done() for task in seen)
        made = [future.result() async for future in aio.as_completed([give(1), fail_later()], timeout=10)]
        assert made == [1, 2]
        with pytest.raises(TimeoutError):
            async for _ in aio.as_completed([aio.get_running_loop().create_future()], timeout=0.001):
                pass

    async def fail_later():
        await asyncio.sleep(0)
        return 2

    run(main())


def test_an_iterator_that_is_left_is_freed(run, aio):
    class Marker:
        pass

    async def main():
        marker = Marker()
        alive = weakref.ref(marker)
        futures = [aio.get_running_loop().create_future() for _ in range(2)]
        futures[0].marker = marker
        iterator = aio.as_completed(futures)
        waiting = aio.create_task(wait(next(iterator)))
        await aio.sleep(0)
        waiting.cancel()
        await aio.wait([waiting])
        del marker, futures, iterator, waiting
        gc.collect()
        assert alive() is None

    async def wait(each):
        return await each

    run(main())
