"""`shield`: arguments, results, references. (Order and turns: test_waits_traces.py.)"""

import asyncio
import gc
import weakref

import pytest


async def give(value):
    return value


def test_what_it_takes(run, aio):
    async def main():
        loop = aio.get_running_loop()
        assert await aio.shield(give(1)) == 1
        assert await aio.shield(aio.create_task(give(2))) == 2
        assert await aio.shield(arg=aio.sleep(0, 3)) == 3
        assert await aio.shield(aio.gather(give(4))) == [4]
        done = loop.create_future()
        done.set_result(5)
        assert aio.shield(done) is done
        stock = asyncio.Future(loop=loop)
        loop.call_soon(stock.set_result, 6)
        assert await aio.shield(stock) == 6
        with pytest.raises(TypeError, match="An asyncio.Future, a coroutine or an awaitable is required"):
            aio.shield(1)
        with pytest.raises(TypeError, match=r"shield\(\) missing 1 required positional argument: 'arg'"):
            aio.shield()
        with pytest.raises(TypeError, match=r"shield\(\) takes 1 positional argument but 2 were given"):
            aio.shield(done, done)

    run(main())


def test_without_a_running_loop(loop, aio):
    future = loop.create_future()
    outer = aio.shield(future)
    assert outer is not future and outer.get_loop() is loop
    loop.call_soon(future.set_result, 1)
    assert loop.run_until_complete(outer) == 1


def callbacks(future):
    """Without the callback that asyncio adds for call graphs from 3.14 on.

    Rondel's other callback does that.
    """
    names = [callback.__qualname__ for callback, _ in future._callbacks or ()]
    return [name for name in names if not name.endswith("_clear_awaited_by_callback")]


def test_callbacks(run, aio):
    async def main():
        inner = aio.get_running_loop().create_future()
        outer = aio.shield(inner)
        assert type(outer) is type(inner)
        assert callbacks(inner) == ["shield.<locals>._inner_done_callback"]
        assert callbacks(outer) == ["shield.<locals>._outer_done_callback"]
        second = aio.shield(inner)
        assert len(callbacks(inner)) == 2
        outer.cancel()
        await aio.sleep(0)
        assert len(callbacks(inner)) == 1
        inner.set_result("kept")
        assert await second == "kept"
        assert outer.cancelled()

    run(main())


@pytest.mark.parametrize("when", ["before", "in the same turn", "after"])
def test_an_exception_after_the_cancellation(run, aio, problems, when):
    async def main():
        inner = aio.get_running_loop().create_future()
        outer = aio.shield(inner)
        if when == "before":
            inner.set_exception(ValueError("unseen"))
        outer.cancel()
        if when == "after":
            await aio.sleep(0)
        if not inner.done():
            inner.set_exception(ValueError("unseen"))
        for _ in range(3):
            await aio.sleep(0)
        del inner, outer
        gc.collect()

    run(main())
    # The outcome differs between releases, and is the same as in asyncio.
    seen = [(context["message"].partition(" ")[2], str(context["exception"])) for context in problems]
    problems.clear()
    asyncio_seen = []

    async def as_stock():
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: asyncio_seen.append((context["message"].partition(" ")[2], str(context["exception"])))
        )
        await stock_main()

    async def stock_main():
        inner = asyncio.get_running_loop().create_future()
        outer = asyncio.shield(inner)
        if when == "before":
            inner.set_exception(ValueError("unseen"))
        outer.cancel()
        if when == "after":
            await asyncio.sleep(0)
        if not inner.done():
            inner.set_exception(ValueError("unseen"))
        for _ in range(3):
            await asyncio.sleep(0)
        del inner, outer
        gc.collect()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(as_stock())
    assert seen == asyncio_seen


def test_a_future_that_the_program_ends_itself(run, aio, problems):
    async def main():
        inner = aio.get_running_loop().create_future()
        outer = aio.shield(inner)
        outer.set_result("mine")
        inner.set_result("too late")
        await aio.sleep(0)
        await aio.sleep(0)
        assert outer.result() == "mine"
        [context] = problems
        assert context["message"].startswith("Exception in callback shield.<locals>._inner_done_callback(")
        assert isinstance(context["exception"], asyncio.InvalidStateError)
        assert isinstance(context["handle"], asyncio.Handle)
        problems.clear()

    run(main())


def test_each_keeps_the_other(run, aio):
    async def main():
        loop = aio.get_running_loop()
        inner = loop.create_future()
        alive = weakref.ref(inner)
        outer = aio.shield(inner)
        del inner
        gc.collect()
        assert alive() is not None
        inner = alive()
        alive = weakref.ref(outer)
        del outer
        gc.collect()
        assert alive() is not None
        alive_inner = weakref.ref(inner)
        del inner
        gc.collect()
        assert alive() is None and alive_inner() is None

    run(main())


def test_a_cancelled_shield_lets_go(run, aio):
    async def main():
        inner = aio.get_running_loop().create_future()
        outer = aio.shield(inner)
        alive = weakref.ref(outer)
        outer.cancel()
        await aio.sleep(0)
        del outer
        gc.collect()
        assert alive() is None
        inner.cancel()

    run(main())
