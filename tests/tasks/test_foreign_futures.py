"""Mixed kinds of futures and tasks.

Asyncio's C and Python classes, threads' futures, other loops.
"""

import asyncio
import concurrent.futures
import io
import sys
import threading
from asyncio import futures, tasks

import pytest


async def give(value):
    await asyncio.sleep(0)
    return value


async def forever():
    await asyncio.get_running_loop().create_future()


FUTURES = {
    "loop's": lambda loop: loop.create_future(),
    "asyncio's": lambda loop: asyncio.Future(loop=loop),
    "pure": lambda loop: futures._PyFuture(loop=loop),
}
TASKS = {
    "loop's": lambda loop, coro: loop.create_task(coro),
    "asyncio's": lambda loop, coro: asyncio.Task(coro, loop=loop),
    "pure": lambda loop, coro: tasks._PyTask(coro, loop=loop),
}


@pytest.fixture(params=FUTURES)
def make_future(request):
    return FUTURES[request.param]


@pytest.fixture(params=TASKS)
def make_task(request):
    return TASKS[request.param]


def test_each_task_awaits_each_future(loop, make_task, make_future):
    async def wait():
        with pytest.raises(ValueError, match="first"):
            await failing
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        return await fine

    failing, cancelled, fine = (make_future(loop) for _ in range(3))
    task = make_task(loop, wait())
    loop.call_soon(failing.set_exception, ValueError("first"))
    loop.call_later(0.001, cancelled.cancel)
    loop.call_later(0.002, fine.set_result, "result")
    assert loop.run_until_complete(task) == "result"
    assert not task.cancelling() if hasattr(task, "cancelling") else True


def test_each_task_awaits_each_task(loop, make_task):
    for other in TASKS.values():

        async def wait(awaited):
            return await awaited

        assert loop.run_until_complete(make_task(loop, wait(other(loop, give(5))))) == 5


def test_cancelling_goes_through(loop, make_task, make_future):
    async def wait():
        try:
            await future
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    seen = []
    future = make_future(loop)
    task = make_task(loop, wait())
    loop.call_soon(task.cancel, "why")
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert future.cancelled()
    assert task.cancelled()
    # All versions pass the message of a pure-Python future on; later ones also keep it for its own
    # error.
    assert seen in ([("why",)], [()])


def test_callbacks_of_each(loop, make_future):
    future = make_future(loop)
    seen = []
    future.add_done_callback(seen.append)
    future.add_done_callback(print)
    assert future.remove_done_callback(print) == 1
    future.set_result(1)
    assert seen == []
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [future]


def test_gathering_all_kinds(loop, aio):
    async def main():
        return await aio.gather(*(make(loop, give(name)) for name, make in TASKS.items()), *already())

    def already():
        for name, make in FUTURES.items():
            future = make(loop)
            loop.call_soon(future.set_result, name)
            yield future

    assert loop.run_until_complete(main()) == [*TASKS, *FUTURES]


def test_tasks_of_the_module_on_a_loop_of_asyncios(aio):
    loop = asyncio.SelectorEventLoop()
    try:

        async def main():
            assert aio.current_task() is task
            assert task in aio.all_tasks()
            future = aio.Future(loop=loop)
            loop.call_soon(future.set_result, 1)
            assert await future == 1
            child = aio.Task(give(2), loop=loop)
            assert child.get_loop() is loop
            assert await child == 2
            waiting = aio.Task(forever(), loop=loop)
            await asyncio.sleep(0)
            waiting.cancel("why")
            with pytest.raises(asyncio.CancelledError):
                await waiting
            return await asyncio.wait_for(aio.Task(give(3), loop=loop), 5)

        task = aio.Task(main(), loop=loop)
        assert loop.run_until_complete(task) == 3
        assert task not in aio.all_tasks(loop)
    finally:
        loop.close()


def test_the_modules_functions_on_a_loop_of_asyncios(aio):
    """`create_task` and similar functions work on any running loop."""

    async def main():
        assert await aio.create_task(give(1), name="named") == 1
        assert await aio.ensure_future(give(2)) == 2
        async with aio.TaskGroup() as group:
            children = [group.create_task(give(number)) for number in range(3)]
        assert [child.result() for child in children] == [0, 1, 2]
        with pytest.raises(ExceptionGroup):
            async with aio.TaskGroup() as group:
                group.create_task(forever())
                raise ValueError
        assert await aio.to_thread(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await aio.to_thread(divmod, 1, 0)

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


# ---- futures of threads ----


def test_wrapping_futures_of_threads(run, aio):
    async def main():
        source = concurrent.futures.Future()
        wrapped = aio.wrap_future(source)
        assert aio.isfuture(wrapped)
        assert aio.wrap_future(wrapped) is wrapped
        threading.Timer(0.001, source.set_result, [1]).start()
        assert await wrapped == 1

        source = concurrent.futures.Future()
        wrapped = aio.wrap_future(source)
        source.set_exception(KeyError("lost"))
        with pytest.raises(KeyError):
            await wrapped

        source = concurrent.futures.Future()
        wrapped = aio.wrap_future(source)
        wrapped.cancel()
        await aio.sleep(0)
        assert source.cancelled()

        source = concurrent.futures.Future()
        wrapped = aio.wrap_future(source)
        source.cancel()
        with pytest.raises(aio.CancelledError):
            await wrapped
        with pytest.raises(AssertionError, match="concurrent.futures.Future is expected, got 1"):
            aio.wrap_future(1)

    run(main())


def in_thread(run, aio, body):
    """Run `body(loop)` in a thread while the loop runs; return its result."""

    async def main():
        loop = aio.get_running_loop()
        return await loop.run_in_executor(None, body, loop)

    return run(main())


def test_run_coroutine_threadsafe(run, aio):
    def body(loop):
        future = aio.run_coroutine_threadsafe(give(5), loop)
        assert isinstance(future, concurrent.futures.Future)
        return future.result(10)

    assert in_thread(run, aio, body) == 5


def test_run_coroutine_threadsafe_fails(run, aio):
    async def fail():
        raise ValueError("text")

    def body(loop):
        with pytest.raises(ValueError, match="text"):
            aio.run_coroutine_threadsafe(fail(), loop).result(10)
        with pytest.raises(TypeError, match="A coroutine object is required"):
            aio.run_coroutine_threadsafe(1, loop)

    in_thread(run, aio, body)


def test_run_coroutine_threadsafe_is_cancelled(run, aio):
    def body(loop):
        ended = threading.Event()

        async def wait():
            try:
                await forever()
            finally:
                ended.set()

        future = aio.run_coroutine_threadsafe(wait(), loop)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0.01)
        assert future.cancel()
        assert ended.wait(10)

        async def cancel_myself():
            aio.current_task().cancel()
            await aio.sleep(0)

        with pytest.raises(concurrent.futures.CancelledError):
            aio.run_coroutine_threadsafe(cancel_myself(), loop).result(10)

    in_thread(run, aio, body)


def test_run_coroutine_threadsafe_with_a_factory_that_fails(run, aio, problems):
    def body(loop):
        def factory(loop, coro, **keywords):
            coro.close()
            raise NameError("factory")

        loop.set_task_factory(factory)
        future = aio.run_coroutine_threadsafe(give(1), loop)
        with pytest.raises(NameError, match="factory"):
            future.result(10)
        loop.set_task_factory(None)

    in_thread(run, aio, body)
    assert len(problems) == 1
    assert isinstance(problems[0]["exception"], NameError)


# ---- attributes and methods of tasks ----


def test_stacks_of_tasks(run, aio):
    async def main():
        async def outer():
            await inner()

        async def inner():
            await forever()

        async def fail():
            raise ValueError

        task = aio.create_task(outer())
        assert len(task.get_stack()) == 1
        await aio.sleep(0)
        (frame,) = task.get_stack(limit=5)
        assert frame.f_code.co_name == "outer"
        text = io.StringIO()
        task.print_stack(file=text, limit=1)
        assert text.getvalue().startswith("Stack for <Task pending name=")
        assert "await inner()" in text.getvalue()
        failed = aio.create_task(fail())
        await asyncio.wait([failed])
        assert [frame.f_code.co_name for frame in failed.get_stack()] == ["fail"]
        text = io.StringIO()
        failed.print_stack(file=text)
        assert text.getvalue().splitlines()[0].startswith("Traceback for <Task finished name=")
        assert text.getvalue().splitlines()[-1] == "ValueError"
        task.cancel()
        await asyncio.wait([task])
        assert task.get_stack() == []
        text = io.StringIO()
        task.print_stack(file=text)
        assert text.getvalue().startswith("No stack for <Task cancelled name=")
        with pytest.raises(TypeError):
            task.get_stack(1)
        with pytest.raises(ValueError):
            failed.result()

    run(main())


def test_cancelling_and_taking_it_back(run, aio):
    async def main():
        async def wait():
            try:
                await forever()
            except aio.CancelledError as error:
                seen.append(error.args)
                assert aio.current_task().cancelling() == 2
                assert aio.current_task().uncancel() == 1
                assert aio.current_task().uncancel() == 0
                assert aio.current_task().uncancel() == 0
            return "went on"

        seen = []
        task = aio.create_task(wait())
        await aio.sleep(0)
        assert task.cancel("first")
        assert task.cancel(msg="second")
        assert await task == "went on"
        assert len(seen) == 1
        assert not task.cancel()
        assert task.cancelling() == 0
        with pytest.raises(TypeError):
            task.cancel("one", "two")
        with pytest.raises(TypeError):
            task.cancel(message="text")

    run(main())


def test_a_request_taken_back_before_the_first_step(run, aio):
    async def main():
        task = aio.create_task(give(1))
        task.cancel()
        assert task.uncancel() == 0
        if sys.version_info >= (3, 13):
            assert await task == 1
        else:
            with pytest.raises(aio.CancelledError):
                await task

    run(main())


def test_subclasses(run, aio):
    async def main():
        loop = aio.get_running_loop()
        told = []

        class MyFuture(aio.Future):
            def set_result(self, result):
                told.append(result)
                super().set_result(result)

            def cancel(self, msg=None):
                told.append(("cancel", msg))
                return super().cancel(msg=msg)

        class MyTask(aio.Task):
            def cancel(self, msg=None):
                told.append("cancel task")
                return super().cancel(msg=msg)

        future = MyFuture(loop=loop)
        loop.call_soon(future.set_result, 1)
        assert await MyTask(wait_for_it(future), loop=loop) == 1
        future = MyFuture(loop=loop)
        task = MyTask(wait_for_it(future), loop=loop)
        await aio.sleep(0)
        task.cancel("why")
        with pytest.raises(aio.CancelledError):
            await task
        assert told == [1, "cancel task", ("cancel", "why")]

    async def wait_for_it(future):
        return await future

    run(main())
