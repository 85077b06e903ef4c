"""Futures: results, cancelling, callbacks, repr, unretrieved exceptions, garbage collection."""

import asyncio
import concurrent.futures
import contextvars
import gc
import inspect
import threading
import weakref
from collections import abc

import pytest


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_a_future_is_asyncios(loop, aio):
    future = loop.create_future()
    assert isinstance(future, asyncio.Future)
    assert aio.isfuture(future)
    assert future.get_loop() is loop
    assert future._asyncio_future_blocking is False
    assert aio.Future(loop=loop).get_loop() is loop


def test_a_future_needs_a_loop(aio):
    seen = []

    def in_a_thread_without_loop():
        with pytest.raises(RuntimeError, match=r"There is no current event loop in thread"):
            aio.Future()
        seen.append(True)

    thread = threading.Thread(target=in_a_thread_without_loop)
    thread.start()
    thread.join()
    assert seen == [True]


def test_states(loop):
    future = loop.create_future()
    assert (future._state, future.done(), future.cancelled()) == ("PENDING", False, False)
    with pytest.raises(asyncio.InvalidStateError, match=r"^Result is not set\.$"):
        future.result()
    with pytest.raises(asyncio.InvalidStateError, match=r"^Exception is not set\.$"):
        future.exception()
    future.set_result(5)
    assert (future._state, future.done(), future.cancelled()) == ("FINISHED", True, False)
    assert future.result() == 5
    assert future.exception() is None
    with pytest.raises(asyncio.InvalidStateError, match="invalid state"):
        future.set_result(6)
    with pytest.raises(asyncio.InvalidStateError, match="invalid state"):
        future.set_exception(ValueError)
    assert future.cancel() is False


def test_cancelling_with_a_message(loop):
    future = loop.create_future()
    assert future.cancel("because") is True
    assert future.cancelled()
    assert future.cancel() is False
    for take in (future.result, future.exception):
        with pytest.raises(asyncio.CancelledError) as caught:
            take()
        assert caught.value.args == ("because",)


def test_set_exception_takes_a_class_or_an_instance(loop):
    first, second = loop.create_future(), loop.create_future()
    first.set_exception(ValueError)
    second.set_exception(ValueError("text"))
    assert type(first.exception()) is ValueError
    with pytest.raises(ValueError, match="text"):
        second.result()


def test_callbacks_run_later_and_in_order(loop):
    future = loop.create_future()
    seen = []
    future.add_done_callback(lambda f: seen.append(("first", f is future)))
    future.add_done_callback(lambda f: seen.append("second"))
    future.set_result(None)
    assert seen == []
    run_once(loop)
    assert seen == [("first", True), "second"]
    future.add_done_callback(lambda f: seen.append("third"))
    assert len(seen) == 2
    run_once(loop)
    assert seen[2:] == ["third"]


def test_removing_callbacks(loop):
    future = loop.create_future()
    seen = []
    for _ in range(3):
        future.add_done_callback(seen.append)
    future.add_done_callback(print)
    assert future.remove_done_callback(seen.append) == 3
    assert future.remove_done_callback(seen.append) == 0
    assert future.remove_done_callback(print) == 1
    future.set_result(1)
    run_once(loop)
    assert seen == []


def test_callbacks_see_the_context_in_which_they_were_added(loop):
    variable = contextvars.ContextVar("variable", default="outside")
    future = loop.create_future()
    seen = []
    variable.set("at adding")
    future.add_done_callback(lambda f: seen.append(variable.get()))
    future.add_done_callback(lambda f: seen.append(variable.get()), context=contextvars.Context())
    variable.set("at setting")
    future.set_result(None)
    run_once(loop)
    assert seen == ["at adding", "outside"]


def test_a_callback_that_raises_goes_to_the_handler(loop, problems):
    future = loop.create_future()
    seen = []
    future.add_done_callback(lambda f: 1 / 0)
    future.add_done_callback(lambda f: seen.append(1))
    future.set_result(None)
    run_once(loop)
    assert seen == [1]
    assert [type(context["exception"]) for context in problems] == [ZeroDivisionError]


def test_repr(loop, debug):
    created = " created at " if debug else ">"
    future = loop.create_future()
    assert repr(future).startswith("<Future pending" + created), repr(future)
    future.add_done_callback(run_once)
    assert repr(future).startswith("<Future pending cb=[run_once() at "), repr(future)
    future.add_done_callback(run_once)
    future.add_done_callback(run_once)
    assert "<1 more>" in repr(future)
    future.remove_done_callback(run_once)
    future.set_result("value")
    assert repr(future).startswith("<Future finished result='value'" + created), repr(future)
    failed = loop.create_future()
    failed.set_exception(ValueError("x"))
    assert repr(failed).startswith("<Future finished exception=ValueError('x')" + created), repr(failed)
    failed.exception()
    cancelled = loop.create_future()
    cancelled.cancel()
    assert repr(cancelled).startswith("<Future cancelled" + created), repr(cancelled)


def test_an_exception_nobody_took(loop, problems):
    error = ValueError("lost")
    future = loop.create_future()
    future.set_exception(error)
    text = repr(future)
    del future
    gc.collect()
    [context] = problems
    assert context["message"] == "Future exception was never retrieved"
    assert context["exception"] is error
    assert set(context) - {"source_traceback"} == {"message", "exception", "future"}
    assert repr(context["future"]) == text
    assert ("source_traceback" in context) == loop.get_debug()


@pytest.mark.parametrize("take", ["result", "exception", "await"])
def test_an_exception_that_was_taken_is_not_reported(loop, take):
    future = loop.create_future()
    future.set_exception(ValueError("taken"))
    if take == "exception":
        future.exception()
    elif take == "result":
        with pytest.raises(ValueError, match="taken"):
            future.result()
    else:

        async def wait_for(future):
            await future

        with pytest.raises(ValueError, match="taken"):
            loop.run_until_complete(wait_for(future))
    del future
    gc.collect()


def test_awaiting(loop):
    async def main(future):
        return await future

    future = loop.create_future()
    loop.call_later(0.001, future.set_result, 7)
    assert loop.run_until_complete(main(future)) == 7
    assert loop.run_until_complete(main(future)) == 7


def test_many_tasks_await_one_future(loop):
    future = loop.create_future()
    seen = []

    async def wait(number):
        seen.append((number, await future))

    async def main():
        tasks = [asyncio.ensure_future(wait(number)) for number in range(10)]
        await asyncio.sleep(0)
        future.set_result("x")
        await asyncio.wait(tasks)

    loop.run_until_complete(main())
    assert seen == [(number, "x") for number in range(10)]


def test_the_iterator_protocol(loop):
    future = loop.create_future()
    iterator = iter(future)
    assert next(iterator) is future
    assert future._asyncio_future_blocking is True
    future._asyncio_future_blocking = False
    future.set_result("value")
    with pytest.raises(StopIteration) as caught:
        next(iterator)
    assert caught.value.value == "value"

    iterator = iter(loop.create_future())
    with pytest.raises(ZeroDivisionError):
        iterator.throw(ZeroDivisionError())
    iterator.close()
    done = loop.create_future()
    done.set_result((1, 2))
    with pytest.raises(StopIteration) as caught:
        next(done.__await__())
    assert caught.value.value == (1, 2)


@pytest.mark.parametrize("kind", ["future", "task", "gathered"])
def test_what_passes_for_an_iterator(loop, aio, kind):
    async def main():
        future = loop.create_future()
        if kind == "task":
            future = loop.create_task(aio.sleep(0))
        elif kind == "gathered":
            future = aio.gather(future)
        assert not any(hasattr(future, name) for name in ("send", "throw", "close", "__next__"))
        assert not isinstance(future, (abc.Iterator, abc.Coroutine, abc.Generator))
        for iterator in (future.__await__(), iter(future)):
            assert type(iterator).__name__ == "FutureIter"
            assert isinstance(iterator, abc.Generator)
            assert not isinstance(iterator, (abc.Awaitable, abc.Coroutine))
            assert not inspect.isawaitable(iterator)
            assert not aio.iscoroutine(iterator)
            with pytest.raises(TypeError, match="can't be (used in 'await' expression|awaited)"):
                await iterator
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    loop.run_until_complete(main())


def test_await_without_yield_from(loop):
    future = loop.create_future()
    iterator = iter(future)
    next(iterator)
    with pytest.raises(RuntimeError, match="await wasn't used with future"):
        next(iterator)
    future.cancel()


def test_a_future_of_another_loop_is_refused(loop, impl):
    other = impl.new_event_loop()
    foreign = other.create_future()

    async def main():
        await foreign

    task = loop.create_task(main(), name="t")
    with pytest.raises(
        RuntimeError, match=r"Task <Task .*> got Future <Future pending.*> attached to a different loop"
    ):
        loop.run_until_complete(task)
    other.close()


def test_a_stock_future_can_be_awaited(loop):
    future = asyncio.Future(loop=loop)
    loop.call_soon(future.set_result, 3)

    async def main():
        return await future

    assert loop.run_until_complete(main()) == 3


def test_a_subclass(loop, aio):
    class Mine(aio.Future):
        def set_result(self, value):
            super().set_result(value * 2)

    future = Mine(loop=loop)
    loop.call_soon(future.set_result, 4)
    assert loop.run_until_complete(future) == 8
    assert repr(future).startswith("<Mine finished result=8")


def test_wrap_future(loop, aio):
    outer = concurrent.futures.Future()
    inner = aio.wrap_future(outer, loop=loop)
    assert aio.wrap_future(inner) is inner
    loop.call_soon(outer.set_result, 9)
    assert loop.run_until_complete(inner) == 9
    failing = concurrent.futures.Future()
    wrapped = aio.wrap_future(failing, loop=loop)
    failing.set_exception(concurrent.futures.TimeoutError("late"))
    with pytest.raises(TimeoutError, match="late"):
        loop.run_until_complete(wrapped)


def test_cancelling_a_wrapped_future_cancels_the_thread_pools(loop, aio):
    outer = concurrent.futures.Future()
    inner = aio.wrap_future(outer, loop=loop)
    inner.cancel()
    run_once(loop)
    assert outer.cancelled()


def test_a_future_is_freed_at_once(loop):
    future = loop.create_future()
    alive = weakref.ref(future)
    future.set_result(object())
    run_once(loop)
    del future
    assert alive() is None


def test_cycles_are_collected(loop):
    class Marker:
        pass

    alive = []
    for _ in range(3):
        future = loop.create_future()
        future.marker = Marker()
        alive.append(weakref.ref(future.marker))
        future.add_done_callback(future.cancel)
        future.me = future
    del future
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


def test_a_result_that_holds_its_future_is_collected(loop):
    class Marker:
        pass

    future = loop.create_future()
    marker = Marker()
    marker.future = future
    future.set_result(marker)
    alive = weakref.ref(marker)
    del future, marker
    gc.collect()
    assert alive() is None


def test_attributes_libraries_read(loop):
    future = loop.create_future()
    assert future._callbacks is None or future._callbacks == []
    future.add_done_callback(run_once)
    [(callback, context)] = future._callbacks
    assert callback is run_once
    assert isinstance(context, contextvars.Context)
    assert future._loop is loop
    assert future._exception is None
    assert future._result is None
    assert future._log_traceback is False
    with pytest.raises(ValueError, match="_log_traceback can only be set to False"):
        future._log_traceback = True
    future.cancel()
    assert future._cancel_message is None
    run_once_ignoring(loop)


def run_once_ignoring(loop):
    loop.set_exception_handler(lambda loop, context: None)
    run_once(loop)


def test_set_exception_keeps_the_traceback(loop):
    def fail():
        raise ValueError("with a traceback")

    future = loop.create_future()
    try:
        fail()
    except ValueError as error:
        future.set_exception(error)
    with pytest.raises(ValueError, match="with a traceback") as caught:
        future.result()
    assert "fail" in [entry.name for entry in caught.traceback]


def test_generic_alias(aio):
    assert aio.Future[int].__origin__ is aio.Future
    assert aio.Task[int].__origin__ is aio.Task


@pytest.mark.parametrize("error", [StopIteration, StopIteration("x")])
def test_stop_iteration_as_exception(loop, error):
    def outcome(future):
        # Older versions raise here, newer ones store a RuntimeError.
        try:
            future.set_exception(error)
            return repr(future.exception())
        except TypeError as refused:
            future.cancel()
            return str(refused)

    text = outcome(loop.create_future())
    assert "StopIteration interacts badly with generators and cannot be raised into a Future" in text
    assert text == outcome(asyncio.Future(loop=loop))
