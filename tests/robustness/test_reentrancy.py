"""Reentrant program code: comparisons, constructors, destructors, foreign futures."""

import asyncio
import gc
import sys

import pytest


def turn(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_a_comparison_adds_callbacks_while_one_is_removed(loop):
    called, compared = [], []
    future = loop.create_future()

    class Callback:
        __hash__ = None

        def __init__(self, number):
            self.number = number

        def __call__(self, future):
            called.append(self.number)

        def __eq__(self, other):
            compared.append(self.number)
            if len(future._callbacks) < 6:
                future.add_done_callback(Callback(9))
            return self.number == other.number

    for number in range(4):
        future.add_done_callback(Callback(number))
    assert future.remove_done_callback(Callback(2)) == 1
    future.set_result(None)
    turn(loop)
    assert called == [0, 1, 3, 9, 9]
    assert len(compared) == 6


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_comparison_completes_the_future(loop, count):
    called = []
    future = loop.create_future()

    class Callback:
        __hash__ = None

        def __call__(self, future):
            called.append(self)

        def __eq__(self, other):
            if not future.done():
                future.set_result(None)
            return True

    for _ in range(count):
        future.add_done_callback(Callback())
    future.remove_done_callback(Callback())
    turn(loop)
    assert future.done()
    assert len(called) == count


def test_many_equal_callbacks_are_removed_together(loop):
    future = loop.create_future()
    for _ in range(20_000):
        future.add_done_callback(print)
    future.add_done_callback(repr)
    assert future.remove_done_callback(print) == 20_000
    assert len(future._callbacks) == 1


def test_an_exception_class_that_completes_the_future(aio, loop):
    future = loop.create_future()

    class Error(Exception):
        def __init__(self):
            future.set_result("from within")

    with pytest.raises(aio.InvalidStateError, match="invalid state"):
        future.set_exception(Error)
    assert future.result() == "from within"


def test_a_future_of_a_closed_loop_forgets_its_callbacks(impl):
    loop = impl.new_event_loop()
    future = loop.create_future()
    future.add_done_callback(print)
    future.add_done_callback(repr)
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        future.set_result(1)
    assert future.done()
    assert not future._callbacks


def test_a_future_that_wakes_its_task_at_once(loop, problems):
    class AtOnce:
        _asyncio_future_blocking = True
        _loop = loop

        def __await__(self):
            yield self

        def add_done_callback(self, callback, *, context=None):
            callback(self)

        def result(self):
            return None

        def cancel(self, msg=None):
            return False

    async def main():
        await AtOnce()

    task = loop.create_task(main())
    turn(loop)
    turn(loop)
    assert not task.done()
    (problem,) = problems
    assert isinstance(problem["exception"], RuntimeError)
    text = str(problem["exception"])
    assert text.startswith("Cannot enter into task <")
    assert text.endswith(" is being executed.")
    task._log_destroy_pending = False
    problems.clear()


def test_a_step_too_many_is_reported(aio, loop, problems):
    future = loop.create_future()

    async def main():
        return await future

    task = loop.create_task(main())
    turn(loop)
    ((wake, _context),) = future._callbacks
    future.set_result(1)
    loop.call_soon(wake, future)
    turn(loop)
    assert task.result() == 1
    (problem,) = problems
    assert isinstance(problem["exception"], aio.InvalidStateError)
    step = "__step" if sys.version_info >= (3, 14) else "_step"
    assert str(problem["exception"]).startswith(f"{step}(): already done: <Task finished")


def test_a_failed_callback_shows_its_arguments_as_the_version_does(aio, loop, problems):
    def fails(*args):
        raise ValueError

    loop.call_soon(fails, 1, "two")
    turn(loop)
    (problem,) = problems
    source = asyncio.format_helpers._format_callback_source
    mode = {"debug": loop.get_debug()} if source.__kwdefaults__ else {}
    assert problem["message"] == f"Exception in callback {source(fails, (1, 'two'), **mode)}"


@pytest.mark.parametrize("name", ["_log_traceback", "_cancel_message", "_asyncio_future_blocking"])
def test_attributes_that_cannot_be_deleted(loop, name):
    with pytest.raises(AttributeError, match="cannot (delete attribute|be deleted)"):
        delattr(loop.create_future(), name)


def test_a_pending_cancellation_cannot_be_set(loop):
    async def main():
        pass

    task = loop.create_task(main())
    with pytest.raises(AttributeError):
        task._must_cancel = True
    loop.run_until_complete(task)


def test_futures_that_were_never_initialized(aio):
    for name in ("Future", "Task"):
        made = getattr(aio, name).__new__(getattr(aio, name))
        assert made._source_traceback is None
        with pytest.raises(RuntimeError, match="uninitialized Future object"):
            made.add_done_callback(print)
        for method in ("cancel", "result", "exception", "get_loop", "__await__", "__iter__", "__repr__"):
            if (name, method) != ("Task", "cancel") and (name, method) != ("Task", "__repr__"):
                with pytest.raises((RuntimeError, aio.InvalidStateError)):
                    getattr(made, method)()


def test_initialized_once_more(aio, loop):
    future = aio.Future(loop=loop)
    future.add_done_callback(print)
    future.set_result(1)
    if sys.version_info >= (3, 15):
        with pytest.raises(RuntimeError, match="Future object is already initialized"):
            future.__init__(loop=loop)
        assert future.result() == 1
        return
    future.__init__(loop=loop)
    assert not future.done()
    assert not future._callbacks
    waited_for = aio.Future(loop=loop)

    async def main():
        await waited_for

    task = loop.create_task(main())
    turn(loop)
    waited_for.__init__(loop=loop)
    assert not waited_for._callbacks
    waited_for.set_result(None)
    turn(loop)
    assert not task.done()
    task._log_destroy_pending = False


def test_what_changes_its_class(aio, loop):
    class One(aio.Future):
        pass

    class Other(aio.Future):
        def __del__(self):
            died.append(self)

    died = []
    for _ in range(300):  # more than a freelist holds
        future = One(loop=loop)
        future.note = future
        future.__class__ = Other
        future.set_result(1)
        del future
    gc.collect()
    assert len(died) == 300
    with pytest.raises(TypeError):
        One(loop=loop).__class__ = type("T", (aio.Task,), {})


def test_a_destructor_uses_the_queue_that_lets_go_of_it(aio, run):
    async def main():
        queue = aio.Queue()
        sizes = []

        class Item:
            def __del__(self):
                sizes.append(queue.qsize())
                queue.put_nowait(None)

        for _ in range(3):
            queue.put_nowait(Item())
        for _ in range(3):
            queue.get_nowait()
        assert sizes == [2, 2, 2]
        assert queue.qsize() == 3

    run(main())


def test_a_comparison_puts_into_the_priority_queue(aio, run):
    async def main():
        queue = aio.PriorityQueue()

        class Item:
            def __init__(self, number):
                self.number = number

            def __lt__(self, other):
                if queue.qsize() < 8:
                    queue.put_nowait(Item(self.number + 10))
                return self.number < other.number

        queue.put_nowait(Item(0))
        with pytest.raises(RuntimeError, match="list changed size"):
            queue.put_nowait(Item(1))
        assert queue.qsize() > 2

    run(main())


def test_a_condition_that_is_cancelled_twice_chains_both(aio, run):
    async def main():
        condition = aio.Condition()

        async def wait():
            async with condition:
                await condition.wait()

        task = aio.create_task(wait())
        await aio.sleep(0)
        await condition.acquire()
        task.cancel("first")
        await aio.sleep(0)
        task.cancel("second")
        await aio.sleep(0)
        condition.release()
        with pytest.raises(aio.CancelledError) as raised:
            await task
        texts = []
        error = raised.value
        while error is not None:
            texts.append(str(error))
            error = error.__context__
        assert texts[-1] == "first"

    run(main())
