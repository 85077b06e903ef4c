"""Rust streams that Python iterates over, and async iterables that Rust does."""

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator

import pytest

rust = pytest.importorskip("rondel_pyo3_testing", reason="make test-extension builds it")


def test_python_iterates_over_a_stream(run) -> None:
    async def main() -> None:
        assert [n async for n in rust.numbers(5)] == [0, 1, 2, 3, 4]
        assert [n async for n in rust.numbers(5, 0.001)] == [0, 1, 2, 3, 4]
        numbers = rust.numbers(1)
        assert aiter(numbers) is numbers
        assert await anext(numbers) == 0
        assert await anext(numbers, "default") == "default"
        with pytest.raises(StopAsyncIteration):
            await anext(numbers)
        assert rust.alive() == 0

    run(main())


def test_an_error_is_raised_and_ends_the_stream(run) -> None:
    async def main() -> None:
        seen = []
        numbers = rust.numbers(-2)
        with pytest.raises(KeyError, match="the limit"):
            async for n in numbers:
                seen.append(n)  # noqa: PERF401
        assert seen == [0, 1]
        assert [n async for n in numbers] == []

    run(main())


def test_a_cancelled_item_is_not_lost(run) -> None:
    async def main() -> None:
        numbers = rust.numbers(3, 0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(numbers), 0.01)
        assert [n async for n in numbers] == [0, 1, 2]

    run(main())


def test_one_task_at_a_time_awaits_a_stream(run) -> None:
    async def main() -> None:
        numbers = rust.numbers(3, 0.01)
        first = asyncio.create_task(anext(numbers, None))
        await asyncio.sleep(0)
        for method in (numbers.__anext__, numbers.aclose):
            with pytest.raises(RuntimeError, match="already running"):
                await method()
        assert await first == 0

    run(main())


def test_closing_and_dropping_end_the_stream(run) -> None:
    async def main() -> None:
        numbers = rust.numbers(3, 0.001)
        assert await anext(numbers) == 0
        assert rust.alive() == 1
        await numbers.aclose()
        assert rust.alive() == 0
        assert [n async for n in numbers] == []
        await numbers.aclose()
        numbers = rust.numbers(3, 60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(numbers), 0.01)
        del numbers
        gc.collect()
        assert rust.alive() == 0

    run(main())


def test_another_thread_may_drop_it(run) -> None:
    async def main() -> None:
        box = [rust.numbers(3, 0.001)]
        assert await anext(box[0]) == 0
        await asyncio.to_thread(box.clear)
        for _ in range(100):
            await asyncio.sleep(0.01)
            if rust.alive() == 0:
                break
        assert rust.alive() == 0

    run(main())


def test_rust_iterates_over_what_python_has(run) -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def squares(limit: int) -> AsyncIterator[int]:
        for n in range(limit):
            await asyncio.sleep(0.001 * (n % 2))
            assert asyncio.current_task() is task
            variable.set(n)
            yield n * n

    async def main() -> None:
        nonlocal task
        task = asyncio.current_task()
        assert await rust.collect(squares(5)) == [0, 1, 4, 9, 16]
        assert variable.get() == 4
        assert await rust.collect(squares(0)) == []
        assert await rust.collect(rust.numbers(5)) == [0, 1, 2, 3, 4]

    task = None
    run(main())


def test_an_exception_is_the_last_item(run) -> None:
    async def fails() -> AsyncIterator[int]:
        yield 1
        raise KeyError("no")

    async def main() -> None:
        one, error = await rust.collect(fails())
        assert one == 1
        assert isinstance(error, KeyError)
        (error,) = await rust.collect(3)
        assert isinstance(error, TypeError)
        assert "__aiter__" in str(error)

    run(main())


def test_a_generator_that_rust_leaves_is_closed(run) -> None:
    async def main() -> None:
        closed = asyncio.Event()

        async def counts() -> AsyncIterator[int]:
            try:
                n = 0
                while True:
                    yield n
                    n += 1
            finally:
                await asyncio.sleep(0)
                closed.set()

        assert await rust.collect(counts(), 3) == [0, 1, 2]
        await asyncio.wait_for(closed.wait(), 5)

    run(main())


def test_a_cancellation_reaches_the_generator(run) -> None:
    async def main() -> None:
        seen = []

        async def waits() -> AsyncIterator[int]:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
            yield 1

        task = asyncio.create_task(rust.collect(waits(), 1))
        await asyncio.sleep(0.01)
        task.cancel()
        (error,) = await task  # this Rust code takes it for the last item
        assert isinstance(error, asyncio.CancelledError)
        assert seen == ["cancelled"]

    run(main())
