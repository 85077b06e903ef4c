"""Tasks: order of steps, cancelling, names, contexts, factories, registries, destroyed tasks."""

import asyncio
import contextvars
import gc
import inspect
import sys
import weakref

import pytest


async def give(value):
    return value


async def forever():
    await asyncio.get_running_loop().create_future()


def test_a_task_is_asyncios(run, aio):
    async def main():
        task = aio.create_task(aio.sleep(0, "slept"))
        assert isinstance(task, asyncio.Task)
        assert isinstance(task, asyncio.Future)
        assert aio.isfuture(task)
        assert task.get_loop() is aio.get_running_loop()
        assert await task == "slept"
        assert await task == "slept"
        assert task.done()
        assert not task.cancelled()

    run(main())


def test_tasks_start_in_order_of_creation(run, aio):
    async def main():
        seen = []

        async def step(number):
            for turn in range(3):
                seen.append((turn, number))
                await aio.sleep(0)

        await aio.gather(*(step(number) for number in range(5)))
        return seen

    assert run(main()) == [(turn, number) for turn in range(3) for number in range(5)]


def test_steps_and_callbacks_share_one_queue(run, aio):
    async def main():
        loop = aio.get_running_loop()
        seen = []

        async def work():
            seen.append("task 1")
            await aio.sleep(0)
            seen.append("task 2")

        loop.call_soon(seen.append, "call 1")
        task = aio.create_task(work())
        loop.call_soon(seen.append, "call 2")
        await aio.sleep(0)
        loop.call_soon(seen.append, "call 3")
        await task
        await aio.sleep(0)
        return seen

    assert run(main()) == ["call 1", "task 1", "call 2", "task 2", "call 3"]


def test_only_coroutines_are_taken(run, aio):
    async def main():
        for wrong in (None, 5, aio.get_running_loop().create_future()):
            with pytest.raises(TypeError, match="a coroutine was expected, got "):
                aio.create_task(wrong)

    run(main())


def test_the_result_is_the_return_value_of_any_kind(run, aio):
    async def returning(value):
        return value

    class Odd(Exception):
        pass

    values = [None, 0, (), (1,), [2], "text", ValueError("v"), StopIteration(3), Odd]

    async def main():
        return [await aio.create_task(returning(value)) for value in values]

    assert run(main()) == values


def test_names(run, aio):
    async def main():
        first, second = aio.create_task(aio.sleep(0)), aio.create_task(aio.sleep(0), name="mine")
        third = aio.create_task(aio.sleep(0), name=33)
        assert first.get_name().startswith("Task-")
        assert first.get_name()[5:].isdigit()
        assert second.get_name() == "mine"
        assert third.get_name() == "33"
        first.set_name(12)
        assert first.get_name() == "12"
        await aio.gather(first, second, third)

    run(main())


def test_get_coro_and_get_context(run, aio):
    async def main():
        coroutine = aio.sleep(0)
        task = aio.create_task(coroutine)
        assert task.get_coro() is coroutine
        assert task._coro is coroutine
        if sys.version_info >= (3, 12):
            assert isinstance(task.get_context(), contextvars.Context)
        await task
        assert task.get_coro() is coroutine

    run(main())


def test_current_task_and_all_tasks(run, aio):
    async def main():
        me = aio.current_task()
        assert aio.all_tasks() == {me}
        assert asyncio.current_task() is me
        assert asyncio.all_tasks() == {me}

        async def other():
            assert aio.current_task() is task
            assert asyncio.current_task() is task
            await aio.sleep(0)
            assert aio.current_task() is task

        task = aio.create_task(other())
        assert aio.all_tasks() == {me, task} == asyncio.all_tasks()
        await task
        assert aio.current_task() is me
        assert aio.all_tasks() == {me}
        seen = []
        aio.get_running_loop().call_soon(lambda: seen.append((aio.current_task(), asyncio.current_task())))
        await aio.sleep(0)
        assert seen == [(None, None)]

    run(main())
    with pytest.raises(RuntimeError, match="no running event loop"):
        aio.current_task()


def test_current_task_in_callbacks_of_io_and_timers(run, aio):
    async def main():
        loop = aio.get_running_loop()
        seen = []
        loop.call_later(0.001, lambda: seen.append(asyncio.current_task()))
        done = loop.create_future()
        loop.call_later(0.002, done.set_result, None)
        await done
        assert seen == [None]

    run(main())


def test_cancelling(run, aio):
    async def main():
        seen = []

        async def work():
            try:
                await forever()
            except aio.CancelledError as error:
                seen.append(error.args)
                raise

        task = aio.create_task(work())
        await aio.sleep(0)
        assert task.cancelling() == 0
        assert task.cancel("enough") is True
        assert task.cancelling() == 1
        assert not task.cancelled()
        with pytest.raises(aio.CancelledError) as caught:
            await task
        assert caught.value.args == ("enough",)
        assert task.cancelled()
        assert task.cancel() is False
        assert seen == [("enough",)]

    run(main())


def test_cancelled_before_it_starts(run, aio):
    async def main():
        seen = []

        async def work():
            seen.append("started")

        task = aio.create_task(work())
        task.cancel()
        with pytest.raises(aio.CancelledError):
            await task
        assert seen == []

    run(main())


def test_cancelling_may_be_refused(run, aio):
    async def main():
        async def stubborn():
            try:
                await forever()
            except aio.CancelledError:
                return "still here"

        task = aio.create_task(stubborn())
        await aio.sleep(0)
        task.cancel()
        assert await task == "still here"
        assert not task.cancelled()

    run(main())


def test_uncancel(run, aio):
    async def main():
        async def work():
            me = aio.current_task()
            try:
                await forever()
            except aio.CancelledError:
                assert me.cancelling() == 2
                assert me.uncancel() == 1
                assert me.uncancel() == 0
                assert me.uncancel() == 0
            await aio.sleep(0.001)
            return me.cancelling()

        task = aio.create_task(work())
        await aio.sleep(0)
        task.cancel()
        task.cancel()
        assert await task == 0

    run(main())


def test_cancelling_goes_through_to_what_is_awaited(run, aio):
    async def main():
        future = aio.get_running_loop().create_future()

        async def inner():
            await future

        async def outer():
            await aio.create_task(inner())

        task = aio.create_task(outer())
        await aio.sleep(0)
        await aio.sleep(0)
        assert task._fut_waiter is not None
        task.cancel()
        with pytest.raises(aio.CancelledError):
            await task
        assert future.cancelled()
        assert task._fut_waiter is None

    run(main())


def test_cancelling_itself(run, aio):
    async def main():
        async def work():
            aio.current_task().cancel()
            assert aio.current_task()._must_cancel is True
            await aio.sleep(0)

        with pytest.raises(aio.CancelledError):
            await aio.create_task(work())

        async def last_breath():
            aio.current_task().cancel()
            return "never seen"

        with pytest.raises(aio.CancelledError):
            await aio.create_task(last_breath())

    run(main())


def test_cancelling_between_done_and_wakeup(run, aio):
    async def main():
        future = aio.get_running_loop().create_future()
        task = aio.create_task(wait_for(future))
        await aio.sleep(0)
        future.set_result("ready")
        task.cancel()
        with pytest.raises(aio.CancelledError):
            await task

    async def wait_for(future):
        return await future

    run(main())


def test_exceptions(run, aio):
    async def main():
        async def fail():
            await aio.sleep(0)
            raise ValueError("failed")

        task = aio.create_task(fail())
        await aio.wait([task])
        assert [frame.f_code.co_name for frame in task.get_stack()] == ["fail"]
        with pytest.raises(ValueError, match="failed"):
            await task
        assert isinstance(task.exception(), ValueError)
        with pytest.raises(ValueError, match="failed"):
            task.result()

    run(main())


def test_an_exception_nobody_took(run, aio, problems, debug):
    async def main():
        async def fail():
            raise ValueError("lost")

        task = aio.create_task(fail(), name="loser")
        await aio.sleep(0)
        await aio.sleep(0)
        del task
        gc.collect()

    run(main())
    [context] = problems
    assert context["message"] == "Task exception was never retrieved"
    assert str(context["exception"]) == "lost"
    assert set(context) - {"source_traceback"} == {"message", "exception", "future"}
    assert ("source_traceback" in context) is debug
    assert repr(context["future"]).startswith("<Task finished name='loser' coro=<test_an_exception_nobody_took.")
    del context, problems[:]


def destroyed_task(loop, aio, in_a_cycle):
    """Destroy a waiting task. Return the names in `all_tasks()` during the report and after it."""
    seen, contexts = [], []

    def note(_loop, context):
        contexts.append(context)
        seen.append({task.get_name() for task in aio.all_tasks(loop)})

    class Nothing:
        """An awaited object that only the task references."""

        _asyncio_future_blocking = True

        def get_loop(self):
            return loop

        def add_done_callback(self, *args, **options):
            pass

        def __await__(self):
            yield self

    async def lost():
        me = aio.current_task() if in_a_cycle else None  # noqa: F841 - its frame has it
        await Nothing()

    loop.set_exception_handler(note)
    task = loop.create_task(lost(), name="lost")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert task in aio.all_tasks(loop)
    del task
    gc.collect()
    assert [context["message"] for context in contexts] == ["Task was destroyed but it is pending!"]
    seen.append({task.get_name() for task in aio.all_tasks(loop)})
    contexts.clear()
    gc.collect()
    assert aio.all_tasks(loop) == set()
    return seen


def test_a_task_that_the_collector_destroys_is_no_task_any_more(loop, aio):
    """Though the report refers to it. From 3.14 on asyncio's list has it until it is gone."""
    gone = sys.version_info < (3, 14)
    assert destroyed_task(loop, aio, in_a_cycle=True) == [set() if gone else {"lost"}] * 2


def test_a_task_that_is_destroyed_otherwise_is_one_as_long_as_the_report_keeps_it(loop, aio):
    assert destroyed_task(loop, aio, in_a_cycle=False) == [{"lost"}] * 2


def test_destroyed_but_pending(loop, aio, problems, debug):
    async def lost():
        await asyncio.Future(loop=asyncio.get_running_loop())

    task = loop.create_task(lost(), name="lost")
    loop.call_soon(loop.stop)
    loop.run_forever()
    del task
    gc.collect()
    [context] = problems
    assert context["message"] == "Task was destroyed but it is pending!"
    assert set(context) - {"source_traceback"} == {"message", "task"}
    assert repr(context["task"]).startswith(
        "<Task pending name='lost' coro=<test_destroyed_but_pending.<locals>.lost() "
    )
    assert ("source_traceback" in context) is debug
    assert context["task"]._log_destroy_pending is True
    del context, problems[:]


def test_log_destroy_pending_can_be_switched_off(loop, aio):
    async def lost():
        await asyncio.Future(loop=asyncio.get_running_loop())

    task = loop.create_task(lost())
    task._log_destroy_pending = False
    loop.call_soon(loop.stop)
    loop.run_forever()
    del task
    gc.collect()


def test_repr(run, aio):
    async def main():
        async def work():
            await forever()

        task = aio.create_task(work(), name="worker")
        text = repr(task)
        assert text.startswith(
            "<Task pending name='worker' coro=<test_repr.<locals>.main.<locals>.work() running at "
        ), text
        await aio.sleep(0)
        assert " wait_for=<Future pending cb=[" in repr(task), repr(task)
        task.cancel()
        assert repr(task).startswith("<Task cancelling name='worker' coro=<"), repr(task)
        await aio.wait([task])
        text = repr(task)
        assert text.startswith(
            "<Task cancelled name='worker' coro=<test_repr.<locals>.main.<locals>.work() done, defined at "
        ), text
        done = aio.create_task(give("r"), name="d")
        await done
        assert repr(done).startswith("<Task finished name='d' coro=<give() done, defined at "), repr(done)
        assert " result='r'" in repr(done)

    run(main())


def test_stacks(run, aio, capsys):
    async def main():
        async def inner():
            await forever()

        async def outer():
            await inner()

        task = aio.create_task(outer(), name="stacked")
        await aio.sleep(0)
        assert [frame.f_code.co_name for frame in task.get_stack()] == ["outer"]
        task.print_stack(file=sys.stderr)
        assert capsys.readouterr().err.startswith("Stack for <Task pending name='stacked'")
        task.cancel()
        await aio.wait([task])

    run(main())


def test_context(run, aio):
    variable = contextvars.ContextVar("variable", default="default")

    async def work(seen):
        seen.append(variable.get())
        variable.set("set inside")
        await aio.sleep(0)
        seen.append(variable.get())

    async def main():
        variable.set("outer")
        copied, own = [], []
        await aio.create_task(work(copied))
        context = contextvars.Context()
        await aio.create_task(work(own), context=context)
        assert copied == ["outer", "set inside"]
        assert own == ["default", "set inside"]
        assert variable.get() == "outer"
        assert context[variable] == "set inside"

    run(main())


def test_awaiting_nonsense(run, aio):
    class Yields:
        def __init__(self, what):
            self.what = what

        def __await__(self):
            yield self.what

    async def wait_for(what):
        await Yields(what)

    async def main():
        task = aio.create_task(wait_for(5), name="bad")
        with pytest.raises(RuntimeError, match=r"^Task got bad yield: 5$"):
            await task
        future = aio.get_running_loop().create_future()
        with pytest.raises(
            RuntimeError, match=r"yield was used instead of yield from in task <Task .*> with <Future pending"
        ):
            await aio.create_task(wait_for(future))

        async def me():
            await aio.current_task()

        with pytest.raises(RuntimeError, match=r"Task cannot await on itself: <Task "):
            await aio.create_task(me())
        await Yields(None)

    run(main())


def test_a_yielded_generator_is_refused(run, aio):
    def generator():
        yield

    class Yields:
        def __await__(self):
            yield generator()

    async def bad():
        await Yields()

    async def main():
        with pytest.raises(
            RuntimeError, match=r"yield was used instead of yield from for generator in task|Task got bad yield"
        ):
            await aio.create_task(bad())

    run(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_system_exit_and_keyboard_interrupt_leave_the_loop(loop, kind):
    async def bad():
        raise kind("out")

    task = loop.create_task(bad())
    with pytest.raises(kind, match="out"):
        loop.run_forever()
    assert isinstance(task.exception(), kind)


def test_set_result_is_refused(run, aio):
    async def main():
        task = aio.create_task(aio.sleep(0))
        with pytest.raises(RuntimeError, match="Task does not support set_result operation"):
            task.set_result(1)
        with pytest.raises(RuntimeError, match="Task does not support set_exception operation"):
            task.set_exception(ValueError())
        await task

    run(main())


def test_done_callbacks(run, aio):
    async def main():
        seen = []
        task = aio.create_task(aio.sleep(0, "x"))
        task.add_done_callback(lambda t: seen.append(("first", t is task, t.result())))
        task.add_done_callback(lambda t: seen.append("second"))
        await task
        await aio.sleep(0)
        assert seen == [("first", True, "x"), "second"]

    run(main())


def test_task_factories(run, aio):
    made = []

    def old_style(loop, coroutine, **keywords):
        made.append(keywords)
        return asyncio.Task(coroutine, loop=loop, **keywords)

    async def main():
        loop = aio.get_running_loop()
        assert loop.get_task_factory() is None
        loop.set_task_factory(old_style)
        assert loop.get_task_factory() is old_style
        task = aio.create_task(aio.sleep(0, "stock"), name="named")
        assert task.get_name() == "named"
        assert await task == "stock"
        context = contextvars.Context()
        await aio.create_task(aio.sleep(0), context=context)
        assert made[-1].get("context") is context
        loop.set_task_factory(None)
        with pytest.raises(TypeError, match="task factory must be a callable or None"):
            loop.set_task_factory("text")

    run(main())


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="from 3.13.3 on every factory gets the name as a keyword")
def test_the_plainest_task_factory(run, aio):
    async def main():
        loop = aio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))
        task = loop.create_task(aio.sleep(0, 1), name="named")
        assert task.get_name() == "named"
        assert await task == 1

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks(run, aio):
    async def main():
        loop = aio.get_running_loop()
        loop.set_task_factory(aio.eager_task_factory)
        seen = []

        async def work(blocks):
            seen.append(aio.current_task() is not me)
            if blocks:
                await aio.sleep(0)
            return "result"

        me = aio.current_task()
        done = loop.create_task(work(False))
        assert seen == [True]
        assert done.done()
        assert await done == "result"
        blocked = loop.create_task(work(True))
        assert seen == [True, True]
        assert not blocked.done()
        assert blocked in aio.all_tasks()
        assert aio.current_task() is me
        assert await blocked == "result"

    run(main())


def test_a_finished_task_is_freed_at_once(run, aio):
    async def main():
        task = aio.create_task(aio.sleep(0))
        await task
        alive = weakref.ref(task)
        del task
        await aio.sleep(0)  # the call that woke this task holds what it waited for
        assert alive() is None

    run(main())


def test_the_coroutines_locals_are_freed_at_the_end(run, aio):
    class Marker:
        pass

    async def main():
        async def work():
            marker = Marker()
            alive.append(weakref.ref(marker))
            await aio.sleep(0)

        alive = []
        task = aio.create_task(work())
        await task
        assert alive[0]() is None

    run(main())


def test_cycles_are_collected(run, aio):
    async def main():
        class Marker:
            pass

        async def work(holder, marker):
            await aio.sleep(0)
            return holder

        alive = []
        for _ in range(3):
            holder, marker = [], Marker()
            holder.append(aio.create_task(work(holder, marker)))
            holder.append(marker)
            alive.append(weakref.ref(marker))
            await holder[0]
        del holder, marker
        await aio.sleep(0)
        gc.collect()
        assert [ref() for ref in alive] == [None] * 3

    run(main())


def test_a_pending_cycle_is_collected_and_reported(loop, problems):
    async def main():
        class Marker:
            pass

        async def work(marker):
            future = asyncio.get_running_loop().create_future()
            future.marker = marker
            await future

        marker = Marker()
        alive = weakref.ref(marker)
        asyncio.get_running_loop().create_task(work(marker))
        del marker
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
        return alive

    alive = loop.run_until_complete(main())
    assert [context["message"] for context in problems] == ["Task was destroyed but it is pending!"]
    problems.clear()
    gc.collect()
    assert alive() is None


def test_a_subclass(run, aio):
    class Mine(aio.Task):
        def cancel(self, msg=None):
            return super().cancel("mine")

    async def main():
        task = Mine(forever(), loop=aio.get_running_loop())
        await aio.sleep(0)
        task.cancel()
        with pytest.raises(aio.CancelledError) as caught:
            await task
        assert caught.value.args == ("mine",)
        assert repr(task).startswith("<Mine cancelled name='Task-")

    run(main())


def test_stock_tasks_run_on_the_loop(run, aio):
    async def main():
        loop = aio.get_running_loop()
        seen = []

        async def work():
            seen.append(asyncio.current_task())
            await aio.sleep(0.001)
            seen.append(asyncio.current_task())
            return await aio.create_task(aio.sleep(0, "mixed"))

        # From 3.14 on asyncio's functions know nothing of the pure-Python tasks.
        stock = asyncio.tasks._PyTask if sys.version_info < (3, 14) else asyncio.tasks._CTask
        task = stock(work(), loop=loop)
        assert task in asyncio.all_tasks()
        assert await task == "mixed"
        assert seen == [task, task]

    run(main())


def test_gather(run, aio):
    async def fail():
        raise ValueError("one failed")

    async def main():
        assert await aio.gather(aio.sleep(0.002, 1), aio.sleep(0, 2), aio.sleep(0.001, 3)) == [1, 2, 3]
        assert await aio.gather() == []
        results = await aio.gather(aio.sleep(0, 1), fail(), return_exceptions=True)
        assert results[0] == 1
        assert isinstance(results[1], ValueError)
        with pytest.raises(ValueError, match="one failed"):
            await aio.gather(fail(), aio.sleep(0))
        inner = [aio.create_task(forever()) for _ in range(3)]
        outer = aio.gather(*inner)
        await aio.sleep(0)
        outer.cancel()
        with pytest.raises(aio.CancelledError):
            await outer
        assert all(task.cancelled() for task in inner)

    run(main())


def test_the_rest_of_asyncios_functions(run, aio):
    async def main():
        done, pending = await aio.wait(
            [aio.create_task(aio.sleep(0, 1)), aio.create_task(forever())], return_when=aio.FIRST_COMPLETED
        )
        assert [task.result() for task in done] == [1]
        for task in pending:
            task.cancel()
        await aio.wait(pending)
        with pytest.raises(TimeoutError):
            await aio.wait_for(forever(), 0.001)
        assert await aio.wait_for(aio.sleep(0, "in time"), 5) == "in time"
        with pytest.raises(TimeoutError):
            async with aio.timeout(0.001):
                await forever()
        assert [await result for result in aio.as_completed([aio.sleep(0, 1)])] == [1]
        with pytest.raises(ExceptionGroup) as caught:
            async with aio.TaskGroup() as group:
                group.create_task(forever())
                group.create_task(raising(ValueError("in a group")))
        assert caught.group_contains(ValueError, match="in a group")
        shielded = aio.create_task(aio.sleep(0.001, "shielded"))
        outer = aio.shield(shielded)
        outer.cancel()
        assert await shielded == "shielded"
        assert await aio.to_thread(sum, [1, 2]) == 3
        queue = aio.Queue(1)
        reader = aio.create_task(queue.get())
        await queue.put("item")
        assert await reader == "item"
        async with aio.Lock(), aio.Semaphore(2):
            pass
        event = aio.Event()
        aio.get_running_loop().call_soon(event.set)
        assert await event.wait() is True

    async def raising(error):
        raise error

    run(main())


def test_a_task_group_cancels_the_others(run, aio):
    async def main():
        cancelled = []

        async def waits(number):
            try:
                await forever()
            except aio.CancelledError:
                cancelled.append(number)
                raise

        async def fails():
            raise ValueError("the first")

        with pytest.raises(ExceptionGroup):
            async with aio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(waits(number))
                group.create_task(fails())
        assert sorted(cancelled) == [0, 1, 2]  # the group keeps its tasks in a set
        if sys.version_info >= (3, 13):  # where it was mended
            assert aio.current_task().cancelling() == 0

    run(main())


def test_sleep_waits_at_least_that_long(run, aio):
    async def main():
        loop = aio.get_running_loop()
        for delay in (0.0002, 0.001, 0.01):
            start = loop.time()
            await aio.sleep(delay)
            assert loop.time() - start >= delay

    run(main())


def test_run_coroutine_threadsafe(run, aio):
    import threading

    async def main():
        loop = aio.get_running_loop()
        done = loop.create_future()

        def from_thread():
            result = aio.run_coroutine_threadsafe(aio.sleep(0.001, "from a thread"), loop).result(10)
            loop.call_soon_threadsafe(done.set_result, result)

        thread = threading.Thread(target=from_thread)
        thread.start()
        assert await done == "from a thread"
        thread.join()

    run(main())


def test_async_generators_are_shut_down(impl, aio):
    seen = []

    async def generator():
        try:
            yield 1
            yield 2
        finally:
            await aio.sleep(0)
            seen.append("finalised")

    async def main():
        agen = generator()
        async for _ in agen:
            kept.append(agen)
            break

    kept = []
    with aio.Runner(loop_factory=impl.new_event_loop) as runner:
        runner.run(main())
    assert seen == ["finalised"]


def test_a_coroutine_that_was_never_awaited_warns(run, aio):
    async def main():
        async def lost():
            pass

        with pytest.warns(RuntimeWarning, match=r"coroutine 'test_.*lost' was never awaited"):
            lost()

    run(main())


def test_iscoroutine(aio):
    coroutine = aio.sleep(0)
    assert aio.iscoroutine(coroutine)
    assert inspect.isawaitable(coroutine)
    coroutine.close()


def test_deep_chains_of_tasks(run, aio):
    async def nested(depth):
        if depth:
            return 1 + await aio.create_task(nested(depth - 1))
        return 0

    async def main():
        assert await aio.create_task(nested(2000)) == 2000

    run(main())


@pytest.mark.one_mode
def test_ten_thousand_tasks(run, aio):
    async def main():
        event = aio.Event()
        tasks = [aio.create_task(event.wait()) for _ in range(10_000)]
        await aio.sleep(0)
        event.set()
        assert await aio.gather(*tasks) == [True] * 10_000

    run(main())


def test_a_task_factory_with_many_arguments(loop):
    class Made(int):
        def set_name(self, name):
            """Called by 3.13 from 3.13.3 on."""

    loop.set_task_factory(lambda loop, coroutine, **options: Made(len(options)))
    coroutine = forever()
    options = {f"option_{number}": number for number in range(12)}
    if sys.version_info >= (3, 13, 3):
        assert loop.create_task(coroutine, **options) == 12
    else:
        with pytest.raises(TypeError, match="unexpected keyword argument 'option_0'"):
            loop.create_task(coroutine, **options)
    coroutine.close()
