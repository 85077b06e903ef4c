"""Python awaitables that Rust awaits: in the step of the awaiting task, and elsewhere."""

import asyncio
import contextvars
import gc
import traceback
import types
import warnings
import weakref

import pytest

rust = pytest.importorskip("rondel_pyo3_testing", reason="make test-extension builds it")

# How Rust awaits: delegating, beside a timer of its own, several at once, and as a task of the
# loop.
WAYS = {
    "alone": rust.awaited,
    "beside a timer": lambda awaitable: rust.awaited_within(60, awaitable),
    "as a task": rust.awaited_as_task,
    "begun here": lambda awaitable: rust.awaited_elsewhere(awaitable, begin_here=True),
    "in a task of Rust's": lambda awaitable: rust.awaited_elsewhere(awaitable, begin_here=False),
}
IN_STEP = ["alone", "beside a timer"]
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
in_step = pytest.mark.parametrize("way", [WAYS[way] for way in IN_STEP], ids=IN_STEP)


async def add(a: int, b: int) -> int:
    await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    return a + b


@every_way
def test_the_result_is_that_of_python(run, way) -> None:
    if way is WAYS["begun here"]:
        awaitables = (lambda: add(1, 2),)
    else:
        awaitables = (lambda: add(1, 2), lambda: rust.sleep(0.001, 3), lambda: rust.awaited(add(1, 2)))

    async def main() -> None:
        for awaitable in awaitables:
            assert await way(awaitable()) == 3
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.001, future.set_result, "set")
        assert await way(future) == "set"
        assert await way(asyncio.ensure_future(add(1, 2))) == 3

    run(main())


@every_way
def test_an_exception_is_raised_with_its_traceback(run, way) -> None:
    async def fails() -> None:
        await asyncio.sleep(0.001)
        raise ValueError("no")

    async def main() -> None:
        with pytest.raises(ValueError, match="no") as caught:
            await way(fails())
        assert [frame.name for frame in traceback.extract_tb(caught.tb)][-1] == "fails"
        assert "main" in [frame.name for frame in traceback.extract_tb(caught.tb)]

    run(main())


@pytest.mark.parametrize("way", [WAYS["alone"], WAYS["beside a timer"], WAYS["as a task"]])
def test_what_is_ready_is_taken_at_once(run, way) -> None:
    async def gives(value: object) -> object:
        return value

    async def main() -> None:
        for value in (None, 1, (1, 2), StopIteration("x"), ValueError):
            assert await way(gives(value)) is value
        future = asyncio.get_running_loop().create_future()
        future.set_result("set")
        assert await way(future) == "set"

    run(main())


def test_no_task_is_made_and_no_turn_of_the_loop_passes(run) -> None:
    async def ready() -> int:
        return 1

    async def main() -> None:
        passed = []
        asyncio.get_running_loop().call_soon(passed.append, None)
        tasks = asyncio.all_tasks()

        async def looks() -> None:
            assert asyncio.all_tasks() == tasks
            await asyncio.sleep(0.001)
            assert asyncio.all_tasks() == tasks

        assert await rust.awaited(rust.awaited(ready())) == 1
        assert not passed
        await rust.awaited(rust.awaited(looks()))

    run(main())


@in_step
def test_it_runs_in_the_step_of_the_awaiting_task(run, way) -> None:
    variable = contextvars.ContextVar("variable", default="outside")

    async def looks() -> None:
        assert asyncio.current_task() is task
        assert variable.get() == "inside"
        await asyncio.sleep(0.001)
        assert asyncio.current_task() is task
        variable.set("set within")

    async def main() -> None:
        nonlocal task
        task = asyncio.current_task()
        variable.set("inside")
        await way(looks())
        assert variable.get() == "set within"

    task = None
    run(main())


def test_a_timeout_of_asyncio_within(run) -> None:
    async def slow() -> str:
        try:
            async with asyncio.timeout(0.01):
                await rust.sleep(60, None)
        except TimeoutError:
            return "too slow"
        return "?"

    async def main() -> None:
        assert await rust.awaited(slow()) == "too slow"
        assert await rust.awaited_within(60, slow()) == "too slow"

    run(main())


def test_what_waits_is_seen_from_outside(run) -> None:
    async def waits() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        inner = waits()
        outer = rust.awaited(inner)
        assert outer.cr_await is None
        task = asyncio.create_task(outer)
        await asyncio.sleep(0)
        assert outer.cr_await is inner
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert outer.cr_await is None

    run(main())


@every_way
def test_a_cancellation_reaches_what_rust_awaits(run, way) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def waits() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.set()
                raise

        task = asyncio.create_task(way(waits()))
        await asyncio.sleep(0.01)
        task.cancel("stop")
        with pytest.raises(asyncio.CancelledError, match="stop"):
            await task
        await asyncio.wait_for(ended.wait(), 5)

    run(main())


@every_way
def test_a_cancellation_cancels_the_task_that_is_awaited(run, way) -> None:
    async def main() -> None:
        inner = asyncio.create_task(asyncio.sleep(60))
        outer = asyncio.create_task(way(inner))
        await asyncio.sleep(0.01)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        await asyncio.wait([inner], timeout=5)
        assert inner.cancelled()

    run(main())


def test_python_sees_a_cancellation_first_and_may_take_its_time(run) -> None:
    async def main() -> None:
        order = []

        async def waits() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                order.append(("cancelled", rust.alive()))
                await asyncio.sleep(0.01)
                order.append("cleaned up")
                raise
            return "?"

        task = asyncio.create_task(rust.awaited(waits()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert order == [("cancelled", 1), "cleaned up"]
        assert rust.alive() == 0

    run(main())


def test_a_cancellation_ends_what_waits_for_rust_as_well(run) -> None:
    async def main() -> None:
        async def waits() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)

        async def swallows() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "swallowed"
            return "?"

        for awaitables in ([waits()], [waits(), waits()], [asyncio.ensure_future(waits()), waits()]):
            task = asyncio.create_task(rust.joined([*awaitables, rust.never()], own_wakers=False))
            await asyncio.sleep(0.01)
            task.cancel("stop")
            with pytest.raises(asyncio.CancelledError, match="stop"):
                await asyncio.wait_for(task, 5)
            task = asyncio.create_task(rust.awaited_beside_nothing(waits()))
            await asyncio.sleep(0.01)
            task.cancel("stop")
            with pytest.raises(asyncio.CancelledError, match="stop"):
                await asyncio.wait_for(task, 5)
            assert rust.alive() == 0
        task = asyncio.create_task(rust.awaited_within(60, swallows()))
        await asyncio.sleep(0.01)
        task.cancel()
        assert await task == "swallowed"

    run(main())


def test_python_or_rust_may_make_something_else_of_a_cancellation(run) -> None:
    async def main() -> None:
        async def swallows() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "swallowed"
            return "?"

        for coroutine, result in (
            (rust.awaited(swallows()), "swallowed"),
            (rust.outcome(asyncio.sleep(60)), "CancelledError"),
        ):
            task = asyncio.create_task(coroutine)
            await asyncio.sleep(0.01)
            task.cancel()
            assert await task == result

    run(main())


def test_rust_goes_on_after_what_it_awaited(run) -> None:
    async def main() -> None:
        awaitables = [add(1, 2), rust.sleep(0.001, 4), asyncio.ensure_future(add(2, 3)), asyncio.sleep(0, 6)]
        assert await rust.awaited_in_turn(awaitables) == [3, 4, 5, 6]
        assert await rust.awaited_in_turn([add(n, n) for n in range(20)]) == [2 * n for n in range(20)]

    run(main())


@pytest.mark.parametrize("own_wakers", [False, True])
def test_several_are_awaited_at_once(run, own_wakers) -> None:
    async def one(n: int, barrier: asyncio.Barrier) -> int:
        await asyncio.sleep(0)
        async with barrier:
            await asyncio.sleep(0.001 * (n % 3))
        return n

    async def main() -> None:
        barrier = asyncio.Barrier(10)
        assert await rust.joined([one(n, barrier) for n in range(10)], own_wakers) == list(range(10))
        assert await rust.joined([add(1, 1)], own_wakers) == [2]
        barrier = asyncio.Barrier(3)
        nested = [rust.joined([one(n, barrier)], not own_wakers) for n in range(3)]
        assert await rust.joined(nested, own_wakers) == [[0], [1], [2]]

    run(main())


def test_what_rust_drops_is_cancelled(run) -> None:
    async def main() -> None:
        seen = []

        async def waits() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        assert await rust.awaited_within(0.01, waits()) is None
        assert seen == ["cancelled"]
        inner = asyncio.create_task(asyncio.sleep(60))
        assert await rust.awaited_within(0.01, inner) is None
        await asyncio.wait([inner], timeout=5)
        assert inner.cancelled()

    run(main())


def test_what_rust_drops_may_clean_up(run) -> None:
    async def main() -> None:
        cleaned_up = asyncio.Event()

        async def waits() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                cleaned_up.set()

        async def waits_for_a_task() -> None:
            await asyncio.create_task(waits())

        for make in (waits, waits_for_a_task):
            cleaned_up.clear()
            assert await rust.awaited_within(0.01, make()) is None
            assert not cleaned_up.is_set()
            await asyncio.wait_for(cleaned_up.wait(), 5)

    run(main())


def test_a_failure_of_what_rust_has_dropped_is_reported(run) -> None:
    async def main() -> None:
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context["exception"]))

        async def fails() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                raise KeyError("late")

        assert await rust.awaited_within(0.01, fails()) is None
        assert [type(report) for report in reports] == [KeyError]

    run(main())


def test_what_is_no_awaitable_is_refused_as_by_await(run) -> None:
    class Odd:
        def __await__(self):
            return 1

    @types.coroutine
    def old_style():
        yield
        return "old"

    def generator():
        yield

    async def main() -> None:
        assert await rust.awaited(old_style()) == "old"
        for wrong in (1, Odd(), generator(), asyncio.sleep):
            with pytest.raises(TypeError) as caught:
                await rust.awaited(wrong)
            with pytest.raises(TypeError) as oracle:
                await wrong
            # 3.14 has changed the interpreter's words.
            assert str(caught.value).split()[0] in (str(oracle.value).split()[0], "object")

    run(main())


def test_an_awaitable_is_awaited_by_one(run) -> None:
    async def main() -> None:
        async def waits() -> None:
            await asyncio.sleep(0.02)

        coroutine = waits()
        task = asyncio.create_task(coroutine)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="being awaited already"):
            await rust.awaited(coroutine)
        await task
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await rust.awaited(coroutine)

    run(main())


@in_step
def test_a_wrong_yield_is_an_error_in_the_awaitable(run, way) -> None:
    @types.coroutine
    def wrong(value):
        yield value

    async def yields(value) -> str:
        try:
            await wrong(value)
        except RuntimeError as error:
            return str(error)
        return "no error"

    async def main() -> None:
        assert "Task got bad yield: 1" in await way(yields(1))
        assert await way(yields(None)) == "no error"
        future = asyncio.get_running_loop().create_future()
        assert "yield" in await way(yields(future))

    run(main())


def test_one_that_is_never_polled_is_python_s_to_warn_of(run) -> None:
    async def main() -> None:
        inner = add(1, 2)
        outer = rust.awaited(inner)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outer.close()
            del outer, inner
        assert any("'add' was never awaited" in str(warning.message) for warning in caught)

    run(main())


def test_closing_closes_what_it_delegates_to(run) -> None:
    async def main() -> None:
        seen = []

        async def waits() -> None:
            try:
                await asyncio.sleep(60)
            except BaseException as error:
                seen.append(type(error))
                raise

        async def ignores() -> None:
            try:
                await asyncio.sleep(60)
            except GeneratorExit:
                await asyncio.sleep(60)

        outer = rust.awaited(waits())
        outer.send(None)
        outer.close()
        assert seen == [GeneratorExit]
        outer = rust.awaited(waits())
        outer.send(None)
        with pytest.raises(GeneratorExit):
            outer.throw(GeneratorExit)
        assert seen == [GeneratorExit] * 2
        outer = rust.awaited(ignores())
        outer.send(None)
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            outer.close()

    run(main())


def test_rust_python_and_rust_within_each_other(run) -> None:
    async def down(depth: int) -> int:
        if depth == 0:
            return await rust.sleep(0.001, 0)
        ways = (rust.awaited, lambda inner: rust.awaited_within(60, inner))
        return 1 + await ways[depth % 2](down(depth - 1))

    async def main() -> None:
        assert await asyncio.gather(*(down(20) for _ in range(20))) == [20] * 20

    run(main())


def test_it_does_not_run_within_itself(run) -> None:
    async def main() -> None:
        async def re_enters() -> None:
            with pytest.raises(ValueError, match="already executing"):
                outer.send(None)
            with pytest.raises(ValueError, match="already executing"):
                outer.close()
            await asyncio.sleep(0)
            with pytest.raises(ValueError, match="already executing"):
                outer.throw(KeyError)

        outer = rust.awaited(re_enters())
        await outer

    run(main())


def test_the_collector_finds_cycles_through_a_delegating_coroutine(run) -> None:
    class Mark:
        pass

    async def waits(box: list, mark: Mark) -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> weakref.ref:
        mark = Mark()
        box: list = []
        outer = rust.awaited(waits(box, mark))
        box.append(outer)
        outer.send(None)
        return weakref.ref(mark)

    mark = run(main())
    gc.collect()
    assert mark() is None


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # cancelled before it has begun
def test_a_random_moment_is_as_good_as_any_to_cancel(run) -> None:
    async def main() -> None:
        async def inner(n: int) -> int:
            for _ in range(n % 5):
                await asyncio.sleep(0)
            return await rust.sleep(0.0001 * (n % 7), n)

        for round_ in range(30):
            tasks = [asyncio.create_task(way(inner(n))) for n in range(20) for way in WAYS.values()]
            for _ in range(round_ % 6):
                await asyncio.sleep(0)
            for task in tasks[round_ % 3 :: 3]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for number, result in enumerate(results):
                assert result == number // len(WAYS) or isinstance(result, asyncio.CancelledError)
            for _ in range(5):
                await asyncio.sleep(0.001)
            assert rust.alive() == 0

    run(main())
