"""Callbacks.

Call_soon, call_later, call_at, call_soon_threadsafe, stop, exceptions, contexts, closed loops.
"""

import asyncio
import contextvars
import decimal
import fractions
import logging
import re
import sys
import threading
import time

import pytest


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_call_soon_runs_in_order_of_scheduling(loop):
    seen = []
    for number in range(100):
        loop.call_soon(seen.append, number)
    run_once(loop)
    assert seen == list(range(100))


def test_what_a_callback_schedules_runs_in_the_next_turn(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "scheduled by first")

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    run_once(loop)
    assert seen == ["first", "second"]
    run_once(loop)
    assert seen == ["first", "second", "scheduled by first"]


@pytest.mark.parametrize("count", range(6))
def test_call_soon_passes_any_number_of_arguments(loop, count):
    seen = []
    loop.call_soon(lambda *args: seen.append(args), *range(count))
    run_once(loop)
    assert seen == [tuple(range(count))]


def test_handle_is_asyncios(loop):
    handle = loop.call_soon(print)
    assert isinstance(handle, asyncio.Handle)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert not handle.cancelled()
    handle.cancel()
    assert handle.cancelled()
    handle.cancel()
    run_once(loop)


def test_every_handle_is_the_modules_handle(loop, aio):
    handles = [loop.call_soon(print), loop.call_later(60, print), loop.call_soon_threadsafe(print)]
    for handle in handles:
        assert isinstance(handle, aio.Handle)
        handle.cancel()
    assert [isinstance(handle, aio.TimerHandle) for handle in handles] == [False, True, False]
    assert issubclass(aio.TimerHandle, aio.Handle)
    run_once(loop)


def test_cancelled_call_does_not_run(loop):
    seen = []
    handle = loop.call_soon(seen.append, "cancelled")
    loop.call_soon(seen.append, "kept")
    handle.cancel()
    run_once(loop)
    assert seen == ["kept"]


def test_a_callback_may_cancel_one_that_is_ready(loop):
    seen = []
    loop.call_soon(lambda: later.cancel())
    later = loop.call_soon(seen.append, "cancelled")
    run_once(loop)
    assert seen == []


def test_a_handle_drops_its_callback_when_cancelled(loop):
    class Callback:
        def __call__(self):
            pass

    import weakref

    callback = Callback()
    alive = weakref.ref(callback)
    handle = loop.call_later(3600, callback)
    del callback
    assert alive() is not None
    handle.cancel()
    if not loop.get_debug():  # in debug mode the repr of the callback is kept, not the callback
        assert alive() is None
    run_once(loop)


def test_handle_repr(loop, debug):
    handle = loop.call_soon(run_once, 1)
    text = repr(handle)
    arguments = "" if sys.version_info >= (3, 13) and not debug else "1"
    assert text.startswith(f"<Handle run_once({arguments}) at "), text
    assert text.count("created at ") == debug
    handle.cancel()
    assert repr(handle).startswith("<Handle cancelled")


def test_timer_handle_repr(loop):
    timer = loop.call_at(123, run_once)
    assert repr(timer).startswith("<TimerHandle when=123 run_once() at "), repr(timer)
    timer.cancel()
    assert repr(timer).startswith("<TimerHandle cancelled when=123")


def test_timer_handles_compare_by_when(loop):
    early, late, same = loop.call_at(1e9, print), loop.call_at(2e9, print), loop.call_at(1e9, print)
    assert early < late
    assert late > early
    assert early <= same
    assert early == same
    assert early != late
    assert len({hash(early), hash(same)}) == 1
    for timer in (early, late, same):
        timer.cancel()


def test_call_later_orders_by_deadline(loop):
    seen = []
    for delay in (0.03, 0.01, 0.02):
        loop.call_later(delay, seen.append, delay)
    loop.call_later(0.04, loop.stop)
    loop.run_forever()
    assert seen == [0.01, 0.02, 0.03]


def test_call_at_takes_equal_deadlines_in_order_of_scheduling(loop):
    seen = []
    when = loop.time() + 0.005
    for number in range(50):
        loop.call_at(when, seen.append, number)
    loop.call_at(when + 0.005, loop.stop)
    loop.run_forever()
    assert sorted(seen) == list(range(50))
    # asyncio does not define the order of timers with equal deadlines. Rondel keeps their order.
    if type(loop).__module__.startswith("rondel"):
        assert seen == list(range(50))


def test_negative_delays_run_in_order_of_their_deadlines(loop):
    seen = []
    for delay in (-1, -3, 0, -2):
        loop.call_later(delay, seen.append, delay)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert seen == [-3, -2, -1, 0]


def test_call_later_zero_is_a_timer_that_runs_after_what_is_ready(loop):
    seen = []
    timer = loop.call_later(0, seen.append, "timer")
    loop.call_soon(seen.append, "ready")
    assert isinstance(timer, asyncio.TimerHandle)
    assert timer.when() == pytest.approx(loop.time(), abs=1)
    loop.call_later(0.005, loop.stop)
    loop.run_forever()
    assert seen == ["ready", "timer"]


def test_call_at_keeps_when(loop):
    timer = loop.call_at(12345.5, print)
    assert timer.when() == 12345.5
    assert timer._when == 12345.5
    timer.cancel()


def test_timer_never_fires_early(loop):
    for delay in (0.0002, 0.001, 0.0073, 0.02):
        start = loop.time()
        fired = []
        loop.call_later(delay, lambda fired=fired: (fired.append(loop.time()), loop.stop()))
        loop.run_forever()
        # asyncio rounds deadlines to the resolution of its clock.
        assert fired[0] - start >= delay - loop_resolution(loop)


def loop_resolution(loop):
    return getattr(loop, "_clock_resolution", 1e-9) or 1e-9


def test_cancelled_timers_do_not_fire(loop):
    seen = []
    timers = [loop.call_later(0.001, seen.append, number) for number in range(500)]
    for timer in timers[::2]:
        timer.cancel()
    assert all(timer.cancelled() for timer in timers[::2])
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert sorted(seen) == list(range(1, 500, 2))


def test_call_later_refuses_none(loop):
    with pytest.raises(TypeError, match="delay must not be None"):
        loop.call_later(None, print)
    with pytest.raises(TypeError, match="when cannot be None"):
        loop.call_at(None, print)


@pytest.mark.parametrize(
    ("delay", "kind"),
    [("0.01", "str"), ([], "list"), (decimal.Decimal("0.01"), "decimal.Decimal")],
    ids=["text", "list", "decimal"],
)
def test_call_later_refuses_what_cannot_be_added_to_its_time(loop, aio, delay, kind):
    message = f"unsupported operand type(s) for +: 'float' and {kind!r}"
    with pytest.raises(TypeError, match=re.escape(message)):
        loop.call_later(delay, print)
    if kind == "decimal.Decimal":  # sleep() compares its argument with 0 first, which other types don't support
        with pytest.raises(TypeError, match=re.escape(message)):
            loop.run_until_complete(aio.sleep(delay))


def test_a_delay_may_be_any_number_that_can_be_added(loop, aio):
    class Delay:
        def __radd__(self, now):
            return now + 0.01

    for delay in (fractions.Fraction(1, 100), True, 0, Delay()):
        loop.call_later(delay, print).cancel()
    timer = loop.call_later(fractions.Fraction(1, 100), loop.stop)
    assert isinstance(timer.when(), float)
    loop.run_forever()
    loop.run_until_complete(aio.sleep(fractions.Fraction(1, 100)))


def test_a_patched_clock_moves_the_timers(loop):
    now = [1000.0]
    seen = []
    loop.time = lambda: now[0]
    loop.call_later(3600, seen.append, "an hour")

    def tick():
        now[0] += 600
        if now[0] > 5000:
            loop.stop()
        else:
            loop.call_soon(tick)

    loop.call_soon(tick)
    loop.run_forever()
    assert seen == ["an hour"]


def test_methods_can_be_replaced_on_the_instance(loop):
    seen = []
    stock = loop.call_later
    loop.call_later = lambda delay, *args, **kw: seen.append(delay) or stock(delay, *args, **kw)

    async def main():
        await asyncio.sleep(0.001)

    task = loop.create_task(main())
    loop.run_until_complete(task)
    assert seen == [0.001]


def test_call_soon_threadsafe_wakes_a_sleeping_loop(loop):
    seen = []

    def from_thread():
        loop.call_soon_threadsafe(lambda: (seen.append(threading.current_thread()), loop.stop()))

    thread = threading.Thread(target=from_thread)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert seen == [threading.current_thread()]


waits_for_the_callback = pytest.mark.skipif(sys.version_info < (3, 14), reason="came with 3.14")


@waits_for_the_callback
@pytest.mark.parametrize("method", ["cancel", "cancelled"])
@pytest.mark.parametrize("ends", ["returns", "raises", "exits"])
def test_other_threads_wait_for_the_callback_that_runs(loop, problems, method, ends):
    began = threading.Event()
    seen = []

    def callback():
        began.set()
        time.sleep(0.05)  # lets the other threads wait
        seen.append("callback")
        if ends == "raises":
            raise LookupError
        if ends == "exits":
            raise SystemExit

    def other(handle):
        began.wait()
        seen.append(getattr(handle, method)())

    handle = loop.call_soon_threadsafe(callback)
    threads = [threading.Thread(target=other, args=(handle,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    if ends == "exits":
        with pytest.raises(SystemExit):
            run_once(loop)
    else:
        run_once(loop)
    for thread in threads:
        thread.join()
    assert seen == ["callback"] + 3 * [None if method == "cancel" else False]
    assert [type(context["exception"]) for context in problems] == ([LookupError] if ends == "raises" else [])
    assert handle.cancelled() is (method == "cancel")
    problems.clear()
    if ends == "exits":
        run_once(loop)


def test_a_callback_cancels_its_own_handle(loop):
    seen = []

    def callback():
        handle.cancel()
        seen.append(handle.cancelled())

    handle = loop.call_soon_threadsafe(callback)
    run_once(loop)
    assert seen == [True]


def test_what_another_thread_cancels_in_time_does_not_run(loop):
    handle = loop.call_soon_threadsafe(pytest.fail)
    thread = threading.Thread(target=handle.cancel)
    thread.start()
    thread.join()
    run_once(loop)
    assert handle.cancelled()


def test_call_soon_threadsafe_from_many_threads_keeps_each_threads_order(loop):
    threads, each = 8, 500
    seen = []

    def work(number):
        for step in range(each):
            loop.call_soon_threadsafe(arrived, number, step)

    def arrived(number, step):
        seen.append((number, step))
        if len(seen) == threads * each:
            loop.stop()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        loop.call_soon(worker.start)
    loop.run_forever()
    for worker in workers:
        worker.join()
    for number in range(threads):
        assert [step for who, step in seen if who == number] == list(range(each))


def test_stop_before_run_forever_runs_one_turn(loop):
    seen = []
    loop.call_soon(lambda: (seen.append(1), loop.call_soon(seen.append, 2)))
    loop.stop()
    loop.run_forever()
    assert seen == [1]
    run_once(loop)
    assert seen == [1, 2]


def test_stop_lets_the_ready_callbacks_of_this_turn_run(loop):
    seen = []
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, "after stop")
    loop.run_forever()
    assert seen == ["after stop"]


def test_is_running_and_is_closed(loop):
    seen = []
    assert not loop.is_running()
    loop.call_soon(lambda: seen.append(loop.is_running()))
    run_once(loop)
    assert seen == [True]
    assert not loop.is_running()
    assert not loop.is_closed()
    loop.close()
    assert loop.is_closed()
    loop.close()


def test_an_exception_in_a_callback_goes_to_the_handler(loop, problems):
    error = RuntimeError("boom")

    def bad():
        raise error

    handle = loop.call_soon(bad)
    seen = []
    loop.call_soon(seen.append, "went on")
    run_once(loop)
    assert seen == ["went on"]
    [context] = problems
    assert context["exception"] is error
    assert context["handle"] is handle
    assert context["message"].startswith("Exception in callback "), context["message"]
    assert "bad() at " in context["message"]
    expected = {"message", "exception", "handle"} | ({"source_traceback"} if loop.get_debug() else set())
    assert set(context) == expected


def test_an_exception_in_a_timer_goes_to_the_handler(loop, problems):
    timer = loop.call_later(0, lambda: 1 / 0)
    loop.call_later(0.005, loop.stop)
    loop.run_forever()
    [context] = problems
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["handle"] is timer


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_system_exit_and_keyboard_interrupt_leave_the_loop(loop, kind):
    def bad():
        raise kind("out")

    loop.call_soon(bad)
    seen = []
    loop.call_soon(seen.append, "later")
    with pytest.raises(kind, match="out"):
        loop.run_forever()
    assert not loop.is_running()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    run_once(loop)
    assert seen == ["later"]


def test_the_default_handler_logs(impl, caplog):
    loop = impl.new_event_loop()
    try:
        loop.call_soon(lambda: 1 / 0)
        run_once(loop)
    finally:
        loop.close()
    [record] = caplog.records
    assert record.name == "asyncio"
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("Exception in callback ")
    assert record.exc_info[0] is ZeroDivisionError


def test_a_failing_exception_handler_is_logged(impl, caplog):
    loop = impl.new_event_loop()
    try:
        loop.set_exception_handler(lambda loop, context: 1 / 0)
        loop.call_soon(lambda: [][0])
        run_once(loop)
    finally:
        loop.close()
    assert "Unhandled error in exception handler" in caplog.text


def test_exception_handler_can_be_read_and_removed(loop):
    def handler(loop, context):
        pass

    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None
    with pytest.raises(TypeError, match="A callable object or None is expected, got 'text'"):
        loop.set_exception_handler("text")


def test_each_callback_has_a_context_of_its_own(loop):
    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    def change(number):
        seen.append(variable.get())
        variable.set(number)

    def schedule():
        return [loop.call_soon(change, 1), loop.call_later(0, change, 2), loop.call_soon_threadsafe(change, 3)]

    def run_all():
        loop.call_later(0.001, loop.stop)
        loop.run_forever()

    kept = schedule()
    run_all()
    if sys.version_info >= (3, 12):
        assert [handle.get_context()[variable] for handle in kept] == [1, 2, 3]
    contexts = [handle._context for handle in kept]
    assert len({id(context) for context in contexts}) == 3
    schedule()
    run_all()
    for _ in range(3):
        loop.call_soon(seen.append, "unchanged")
    variable.set("outside")
    schedule()
    run_all()
    assert seen == ["none"] * 6 + ["unchanged"] * 3 + ["outside"] * 3
    assert [context[variable] for context in contexts] == [1, 2, 3]


def test_callbacks_run_in_the_context_of_their_scheduling(loop):
    variable = contextvars.ContextVar("variable", default="none")
    seen = []
    variable.set("outer")
    loop.call_soon(lambda: (seen.append(variable.get()), variable.set("inner")))
    loop.call_later(0, lambda: seen.append(variable.get()))
    other = contextvars.Context()
    loop.call_soon(lambda: seen.append(variable.get()), context=other)
    loop.call_soon_threadsafe(lambda: seen.append(variable.get()), context=other)
    loop.call_later(0.005, loop.stop)
    loop.run_forever()
    assert sorted(seen) == ["none", "none", "outer", "outer"]
    assert variable.get() == "outer"


def test_a_closed_loop_refuses(loop):
    loop.close()
    for call in (
        lambda: loop.call_soon(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.run_forever(),
        lambda: loop.run_in_executor(None, print),
        lambda: loop.create_task(None),
    ):
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            call()


def test_run_until_complete_on_a_closed_loop(loop):
    loop.close()
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        loop.run_until_complete(coroutine)
    coroutine.close()


def test_a_running_loop_cannot_be_closed_or_run_again(loop):
    seen = []

    def inside():
        for call in (loop.close, loop.run_forever):
            with pytest.raises(RuntimeError) as caught:
                call()
            seen.append(str(caught.value))

    loop.call_soon(inside)
    run_once(loop)
    assert seen == ["Cannot close a running event loop", "This event loop is already running"]


def test_another_loop_cannot_run_inside(loop, impl):
    other = impl.new_event_loop()
    seen = []

    def inside():
        with pytest.raises(RuntimeError) as caught:
            other.run_forever()
        seen.append(str(caught.value))

    loop.call_soon(inside)
    run_once(loop)
    other.close()
    assert seen == ["Cannot run the event loop while another loop is running"]


def test_run_until_complete_says_when_stopped_too_early(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
        loop.run_until_complete(future)
    future.cancel()
    run_once(loop)


def test_run_until_complete_refuses_what_cannot_be_awaited(loop):
    with pytest.raises(TypeError, match=r"An asyncio\.Future, a coroutine or an awaitable is required"):
        loop.run_until_complete("text")


@pytest.mark.one_mode
def test_debug_mode_refuses_what_cannot_be_called(loop):
    loop.set_debug(True)
    with pytest.raises(TypeError, match=r"a callable object was expected by call_soon\(\), got 'text'"):
        loop.call_soon("text")
    with pytest.raises(TypeError, match=r"a callable object was expected by call_at\(\), got 1"):
        loop.call_at(0, 1)

    async def coroutine_function():
        pass

    with pytest.raises(TypeError, match=r"coroutines cannot be used with call_soon\(\)"):
        loop.call_soon(coroutine_function)


@pytest.mark.one_mode
def test_debug_mode_refuses_another_thread(loop):
    loop.set_debug(True)
    seen = []

    def from_thread():
        with pytest.raises(RuntimeError) as caught:
            loop.call_soon(print)
        seen.append(str(caught.value))
        with pytest.raises(RuntimeError):
            loop.call_later(1, print)
        with pytest.raises(RuntimeError):
            loop.call_at(loop.time(), print)

    def start():
        thread = threading.Thread(target=from_thread)
        thread.start()
        thread.join()

    loop.call_soon(start)
    run_once(loop)
    assert seen == ["Non-thread-safe operation invoked on an event loop other than the current one"]


@pytest.mark.one_mode
def test_debug_mode_logs_slow_callbacks(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01

    async def slow():
        time.sleep(0.03)  # the test is about slow callbacks

    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.call_soon(time.sleep, 0.03)
        run_once(loop)
        loop.run_until_complete(slow())
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("Executing <Handle sleep(0.03)"), first
    assert first.endswith(" seconds")
    assert second.startswith("Executing <Task finished name="), second


@pytest.mark.parametrize("value", ["1", ""])
def test_debug_mode_from_the_environment(impl, monkeypatch, value):
    monkeypatch.setenv("PYTHONASYNCIODEBUG", value)
    loop = impl.new_event_loop()
    try:
        assert loop.get_debug() is bool(value)
    finally:
        loop.close()


def test_closing_drops_what_is_scheduled(loop):
    import weakref

    class Callback:
        def __call__(self):
            raise AssertionError("never called")

    ready, timer = Callback(), Callback()
    alive = [weakref.ref(ready), weakref.ref(timer)]
    loop.call_soon(ready)
    loop.call_later(1, timer)
    del ready, timer
    loop.close()
    assert [ref() for ref in alive] == [None, None]


def test_an_unclosed_loop_warns(impl):
    loop = impl.new_event_loop()
    text = f"unclosed event loop {loop!r}"
    with pytest.warns(ResourceWarning) as caught:
        loop.__del__()
    assert [str(warning.message) for warning in caught] == [text]
    loop.close()


def test_loop_repr(loop):
    name = type(loop).__name__
    assert repr(loop) == f"<{name} running=False closed=False debug={loop.get_debug()}>"


def test_time_is_monotonic_seconds(loop):
    assert loop.time() == pytest.approx(time.monotonic(), abs=5)
    assert isinstance(loop.time(), float)


@pytest.mark.one_mode
def test_many_timers_at_once(loop):
    fired = []
    base = loop.time()
    for number in range(20_000):
        loop.call_at(base + (number * 7919 % 20_000) * 1e-6, fired.append, number * 7919 % 20_000)
    loop.call_at(base + 0.05, loop.stop)
    loop.run_forever()
    assert fired == sorted(fired)
    assert len(fired) == 20_000


def test_a_callback_that_reschedules_itself_lets_timers_fire(loop):
    turns = [0]

    def again():
        turns[0] += 1
        loop.call_soon(again)

    loop.call_soon(again)
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert turns[0] > 10


def test_the_loop_runs_in_any_thread(impl):
    seen = []

    def work():
        loop = impl.new_event_loop()

        async def main():
            await asyncio.sleep(0.001)
            seen.append(asyncio.get_running_loop() is loop)

        loop.run_until_complete(main())
        loop.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 8


def test_a_context_is_what_has_run(loop):
    """asyncio reads it when the callback is due."""

    class Runs:
        def run(self, callback, *args):
            return callback("by run", *args)

    seen, failed = [], []
    loop.set_exception_handler(lambda loop, context: failed.append(context["exception"]))
    future = loop.create_future()
    loop.call_soon(lambda *args: seen.append(args), 1, 2, 3, 4, context=Runs())
    future.add_done_callback(lambda *args: seen.append(args), context=Runs())
    loop.call_soon(seen.append, 5, context=5)
    loop.call_later(0, seen.append, 5, context="text")
    future.set_result(None)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert seen == [("by run", 1, 2, 3, 4), ("by run", future)]
    assert [f"{type(error).__name__}: {error}" for error in failed] == [
        "AttributeError: 'int' object has no attribute 'run'",
        "AttributeError: 'str' object has no attribute 'run'",
    ]
