"""`timeout`, `timeout_at`, `Timeout` and `wait_for`.

Results, cancellation at each await, misuse.
"""

import asyncio
import contextvars
import gc
import inspect
import math
import sys
import warnings
import weakref
from fractions import Fraction
from itertools import product

import pytest

FROM_3_12 = sys.version_info >= (3, 12)
FROM_3_13 = sys.version_info >= (3, 13)

#: A delay that no test reaches, in seconds.
LONG = 1000


def chain(error):
    """Return the types of an exception, its cause and its context."""
    described = []
    while error is not None and len(described) < 10:
        cause = error.__cause__
        described.append((type(error), str(error), type(cause), cause is error.__context__, error.__suppress_context__))
        error = error.__context__
    return described


# ---- Timeout: state and repr ----


def test_states_and_attributes(run, aio):
    async def main():
        loop = aio.get_running_loop()
        limit = aio.timeout(LONG)
        assert isinstance(limit, asyncio.timeouts.Timeout) and type(limit) is aio.Timeout
        assert type(limit.when()) is float
        assert loop.time() < limit.when() <= loop.time() + LONG
        assert limit.when() is limit.when() or limit.when() == limit.when()
        assert (repr(limit), limit.expired(), limit._state) == ("<Timeout [created]>", False, states.CREATED)
        assert limit._task is None and limit._timeout_handler is None
        assert not hasattr(limit, "_cancelling")
        async with limit as entered:
            assert entered is limit
            assert repr(limit) == f"<Timeout [active] when={round(limit.when(), 3)}>"
            assert limit._state is states.ENTERED and limit._task is aio.current_task()
            assert limit._cancelling == 0
            timer = limit._timeout_handler
            assert isinstance(timer, asyncio.TimerHandle) and timer.when() == limit.when()
        assert timer.cancelled() and limit._timeout_handler is None
        assert (repr(limit), limit.expired(), limit._state) == ("<Timeout [finished]>", False, states.EXITED)
        with pytest.raises(TimeoutError) as caught:
            async with aio.timeout(0) as limit:
                try:
                    await loop.create_future()
                finally:
                    assert (repr(limit), limit.expired(), limit._state) == (
                        "<Timeout [expiring]>",
                        True,
                        states.EXPIRING,
                    )
                    assert limit._timeout_handler is None
        assert (repr(limit), limit.expired(), limit._state) == ("<Timeout [expired]>", True, states.EXPIRED)
        assert chain(caught.value) == [
            (TimeoutError, "", asyncio.CancelledError, True, True),
            (asyncio.CancelledError, "", type(None), True, False),
        ]
        assert aio.current_task().cancelling() == 0

    states = asyncio.timeouts._State
    run(main())


def test_without_limit(run, aio):
    async def main():
        async with aio.timeout(None) as limit:
            assert limit.when() is None and repr(limit) == "<Timeout [active] when=None>"
            assert limit._timeout_handler is None
            await aio.sleep(0)
        async with aio.timeout_at(None) as limit:
            assert limit.when() is None
        assert not limit.expired()

    run(main())


def test_given_deadlines_are_given_back(run, aio):
    async def main():
        now = aio.get_running_loop().time()
        for when in (now + LONG, int(now + LONG), Fraction(now + LONG), math.inf, 10**12):
            limit = aio.timeout_at(when)
            assert limit.when() is when
            async with limit:
                assert limit.when() is when
                assert limit._timeout_handler.when() == when
        assert aio.Timeout(7).when() == 7
        assert aio.timeout_at(when=None).when() is None
        assert aio.timeout(delay=True).when() <= aio.get_running_loop().time() + 1
        assert type(aio.timeout(Fraction(1, 2)).when()) is float
        assert aio.timeout(math.inf).when() == math.inf
        assert math.isnan(aio.timeout(math.nan).when())

    run(main())


@pytest.mark.parametrize("delay", [0, 0.0, -1, -0.5, -math.inf, False, -(10**9), Fraction(-1)])
def test_no_time_at_all(run, aio, delay):
    async def main():
        turns = 0
        with pytest.raises(TimeoutError):
            async with aio.timeout(delay) as limit:
                for _ in range(9):
                    await aio.sleep(0)
                    turns += 1
        assert limit.expired()
        return turns

    assert run(main()) == 0


@pytest.mark.parametrize("make", ["timeout", "timeout_at"])
def test_bodies_that_do_not_wait_are_not_cancelled(run, aio, make):
    async def main():
        async with getattr(aio, make)(-1) as limit:
            pass
        assert not limit.expired() and limit._timeout_handler is None
        # The timer's callback was cancelled.
        await aio.sleep(0)
        await aio.sleep(0)
        assert aio.current_task().cancelling() == 0

    run(main())


def messages(*calls):
    """Return the results of calls, or the type and text of what they raise."""
    found = []
    for call in calls:
        try:
            found.append(call())
        except Exception as error:
            found.append((type(error), str(error)))
    return found


def test_mistakes_have_asyncios_words(run, aio):
    async def entering(limit):
        try:
            async with limit:
                return "entered"
        except Exception as error:
            return type(error), str(error), str(limit._state)

    async def main():
        found = messages(
            lambda: aio.timeout("1"),
            lambda: aio.timeout([]),
            lambda: aio.timeout(10**400),
            lambda: aio.timeout(),
            lambda: aio.timeout(1, 2),
            lambda: aio.timeout(delay=1, when=2),
            lambda: aio.timeout_at(),
            lambda: aio.timeout_at(1, 2),
            lambda: aio.timeout_at(delay=1),
            lambda: aio.Timeout(),
            lambda: aio.Timeout(1, 2),
            lambda: aio.timeout(LONG).reschedule(None),
        )
        limit = aio.timeout(LONG)
        found.append(await entering(limit))
        found.append(await entering(limit))
        found.append(await entering(aio.timeout_at("soon")))
        found.append(await entering(aio.timeout_at([])))
        found += messages(lambda: limit.reschedule(None), lambda: limit.reschedule(3))
        with pytest.raises(TimeoutError):
            async with aio.timeout(0) as limit:
                await aio.sleep(LONG)
        found += messages(lambda: limit.reschedule(3))
        async with aio.timeout(LONG) as limit:
            found.append(await entering(limit))
        with pytest.raises(AssertionError):
            await limit.__aexit__(None, None, None)
        with pytest.raises(AssertionError):
            limit._on_timeout()
        return found

    expected = [
        (TypeError, "unsupported operand type(s) for +: 'float' and 'str'"),
        (TypeError, "unsupported operand type(s) for +: 'float' and 'list'"),
        (OverflowError, "int too large to convert to float"),
        (TypeError, "timeout() missing 1 required positional argument: 'delay'"),
        (TypeError, "timeout() takes 1 positional argument but 2 were given"),
        (TypeError, "timeout() got an unexpected keyword argument 'when'"),
        (TypeError, "timeout_at() missing 1 required positional argument: 'when'"),
        (TypeError, "timeout_at() takes 1 positional argument but 2 were given"),
        (TypeError, "timeout_at() got an unexpected keyword argument 'delay'"),
        (TypeError, "Timeout.__init__() missing 1 required positional argument: 'when'"),
        (TypeError, "Timeout.__init__() takes 2 positional arguments but 3 were given"),
        (RuntimeError, "Timeout has not been entered"),
        "entered",
        (RuntimeError, "Timeout has already been entered", "_State.EXITED"),
        (TypeError, "'<=' not supported between instances of 'str' and 'float'", "_State.ENTERED"),
        (TypeError, "'<=' not supported between instances of 'list' and 'float'", "_State.ENTERED"),
        (RuntimeError, "Cannot change state of finished Timeout"),
        (RuntimeError, "Cannot change state of finished Timeout"),
        (RuntimeError, "Cannot change state of expired Timeout"),
        (RuntimeError, "Timeout has already been entered", "_State.ENTERED"),
    ]
    assert run(main()) == expected


def test_outside_of_a_loop_and_of_a_task(loop, aio):
    with pytest.raises(RuntimeError, match="^no running event loop$"):
        aio.timeout(1)
    with pytest.raises(RuntimeError, match="^no running event loop$"):
        aio.timeout(None)
    limit = aio.timeout_at(1)
    with pytest.raises(RuntimeError, match="^no running event loop$"):
        limit.__aenter__().send(None)
    found = []

    def no_task():
        limit = aio.timeout(1)
        found.extend(messages(lambda: limit.__aenter__().send(None), lambda: aio.wait_for(wait, 1).send(None)))
        found.append(limit._state)
        loop.stop()

    wait = loop.create_future()
    loop.call_soon(no_task)
    loop.run_forever()
    error = (RuntimeError, "Timeout should be used inside a task")
    assert found[0] == error and found[2] is asyncio.timeouts._State.CREATED
    if FROM_3_12:
        assert found[1] == error
    wait.cancel()


def test_entering_and_leaving_by_hand(run, aio):
    async def main():
        task = aio.current_task()
        limit = aio.timeout(LONG)
        entering = limit.__aenter__()
        assert asyncio.iscoroutine(entering)
        assert limit._state.value == "created"  # nothing happens before it is awaited
        assert await entering is limit
        assert await limit.__aexit__(exc_type=None, exc_val=None, exc_tb=None) is None
        with pytest.raises(RuntimeError):
            await entering
        for kind, value in product((None, ValueError, asyncio.CancelledError), (None, ValueError("x"))):
            limit = aio.timeout(0)
            await limit.__aenter__()
            with pytest.raises(asyncio.CancelledError):
                await aio.sleep(LONG)
            assert task.cancelling() == 1
            if kind is asyncio.CancelledError:
                with pytest.raises(TimeoutError) as caught:
                    await limit.__aexit__(kind, value, None)
                assert caught.value.__cause__ is value
                assert caught.value.__context__ is None and caught.value.__suppress_context__
            else:
                assert await limit.__aexit__(kind, value, None) is None
            assert task.cancelling() == 0
        with pytest.raises(TypeError, match=r"__aexit__\(\) missing 2 required"):
            limit.__aexit__(None)

    run(main())


def test_what_is_never_awaited_warns(run, aio):
    async def main():
        for make in (
            lambda: aio.timeout(1).__aenter__(),
            lambda: aio.wait_for(aio.get_running_loop().create_future(), 1),
        ):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                make()
                gc.collect()
            assert ["was never awaited" in str(warning.message) for warning in caught] == [True]

    run(main())


# ---- reschedule ----


def test_reschedule(run, aio):
    async def main():
        loop = aio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with aio.timeout(LONG) as limit:
                first = limit._timeout_handler
                limit.reschedule(loop.time() + 2 * LONG)
                second = limit._timeout_handler
                assert first.cancelled() and not second.cancelled() and second.when() == limit.when()
                limit.reschedule(None)
                assert limit.when() is None and second.cancelled() and limit._timeout_handler is None
                limit.reschedule(None)
                limit.reschedule(when=int(loop.time()) - 1)
                assert not isinstance(limit._timeout_handler, asyncio.TimerHandle)
                await loop.create_future()
        async with aio.timeout(0) as limit:
            limit.reschedule(None)
            for _ in range(3):
                await aio.sleep(0)
        assert not limit.expired()
        async with aio.timeout(None) as limit:
            with pytest.raises(TypeError):
                limit.reschedule("later")
            assert limit.when() == "later"
            limit.reschedule(None)

    run(main())


def test_reschedule_while_it_expires(run, aio):
    async def main():
        async with aio.timeout(0) as limit:
            try:
                await aio.sleep(LONG)
            finally:
                with pytest.raises(RuntimeError, match="^Cannot change state of expiring Timeout$"):
                    limit.reschedule(None)

    with pytest.raises(TimeoutError):
        run(main())


def test_a_deadline_that_is_no_number_compares(run, aio):
    class Deadline:
        def __init__(self, seconds):
            self.seconds = seconds

        def __le__(self, other):
            return self.seconds <= other

        def __float__(self):
            return self.seconds

        def __lt__(self, other):
            return self.seconds < float(other)

        def __sub__(self, other):
            return self.seconds - other

    async def main():
        with pytest.raises(TimeoutError):
            async with aio.timeout_at(Deadline(0.0)):
                await aio.sleep(LONG)
        later = Deadline(aio.get_running_loop().time() + LONG)
        async with aio.timeout_at(later) as limit:
            assert limit.when() is later

    run(main())


# ---- order, and the origin of a cancellation ----


@pytest.mark.parametrize("delays", [(0, 0), (0, 5), (5, 0), (None, 0), (0, None), (0, -1), (LONG, 0)])
def test_nested(run, aio, delays):
    async def main():
        trace = []
        loop = aio.get_running_loop()
        loop.call_soon(trace.append, "before")
        try:
            async with aio.timeout(delays[0]) as outer:
                try:
                    async with aio.timeout(delays[1]) as inner:
                        loop.call_soon(trace.append, "behind")
                        for _ in range(4):
                            await aio.sleep(0)
                            trace.append("turn")
                        await loop.create_future()
                except TimeoutError:
                    trace.append("inner")
                    for _ in range(2):
                        await aio.sleep(0)
        except TimeoutError as error:
            trace.append(("outer", chain(error)))
        return [*trace, outer.expired(), inner.expired(), aio.current_task().cancelling()]

    *trace, outer, inner, cancelling = run(main())
    assert cancelling == 0 and (outer, inner) == (delays[0] == 0, delays[1] in (0, -1))
    assert trace[:2] == ["before", "behind"]
    if outer:
        [(kind, described)] = trace[2:]
        assert kind == "outer" and [each[0] for each in described] == [TimeoutError, asyncio.CancelledError]
    else:
        assert trace[2:] == ["inner"]


def cancelled_in_turn(aio, body, turn, ours):
    """Run `body` in a task; cancel it in a given turn, before or after all else."""

    async def main():
        loop = aio.get_running_loop()
        trace = []

        async def watched():
            try:
                return await body(trace)
            except BaseException as error:
                trace.append(chain(error))
                raise
            finally:
                trace.append(aio.current_task().cancelling())

        task = aio.create_task(watched())
        for now in range(12):
            if now == turn and ours:
                trace.append(task.cancel("by hand"))
            loop.call_soon(trace.append, now)
            if now == turn and not ours:
                loop.call_soon(task.cancel, "by hand")
            await aio.sleep(0)
        trace.append(task.done())
        task.cancel()
        for _ in range(6):
            await aio.sleep(0)
        assert task.done()
        trace.append("cancelled" if task.cancelled() else repr(task.exception()) or task.result())
        return trace

    return main()


def bodies(aio):
    """Programs that are cancelled at any point."""

    async def give(value):
        return value

    async def turns(count):
        for _ in range(count):
            await aio.sleep(0)
        return count

    async def stubborn(trace):
        try:
            await aio.sleep(LONG)
        except asyncio.CancelledError:
            trace.append("stubborn")
            await aio.sleep(0)
            return "all the same"

    async def failing():
        try:
            await aio.sleep(LONG)
        finally:
            raise ValueError("instead")

    async def block(trace):
        async with aio.timeout(0) as limit:
            trace.append("entered")
            await turns(3)
        return limit.expired()

    async def block_that_goes_on(trace):
        try:
            async with aio.timeout(LONG) as limit:
                await turns(2)
                limit.reschedule(0)
                await turns(3)
        except TimeoutError:
            trace.append("timeout")
            await turns(2)

    async def nested(trace):
        async with aio.timeout(LONG) as outer:
            try:
                async with aio.timeout(0):
                    await turns(2)
            except TimeoutError:
                trace.append("inner")
                outer.reschedule(-1)
                await turns(2)

    async def swallowing(trace):
        async with aio.timeout(0) as limit:
            try:
                await turns(3)
            except asyncio.CancelledError:
                trace.append("swallowed")
        await turns(2)
        return limit.expired()

    async def raising(trace):
        async with aio.timeout(0):
            try:
                await turns(3)
            finally:
                raise ValueError("instead")

    async def grouped(trace):
        async with aio.timeout(0):
            try:
                await turns(3)
            except asyncio.CancelledError as error:
                inner = ValueError("in a group")
                inner.__context__ = error
                raise ExceptionGroup("all", [inner, KeyError(1)]) from None

    async def in_group(trace):
        async with aio.timeout(0), aio.TaskGroup() as group:
            group.create_task(failing())
            group.create_task(turns(9))

    def waiting(make, delay):
        async def body(trace):
            try:
                return await aio.wait_for(make(trace), delay)
            finally:
                trace.append("left")

        return body

    loop_future = aio.get_running_loop().create_future

    def done(trace):
        future = loop_future()
        future.set_result("done")
        return future

    def soon(trace):
        future = loop_future()

        async def finish():
            await turns(3)
            if not future.done():
                future.set_result("soon")

        trace.append(aio.create_task(finish()) is not None)
        return future

    made = {
        "block": block,
        "block that goes on": block_that_goes_on,
        "nested": nested,
        "swallowing": swallowing,
        "raising": raising,
        "grouped": grouped,
        "in a group": in_group,
    }
    makers = {
        "give": lambda trace: give(1),
        "turns": lambda trace: turns(4),
        "stubborn": stubborn,
        "failing": lambda trace: failing(),
        "done": done,
        "soon": soon,
        "task": lambda trace: aio.create_task(turns(3)),
        "shield": lambda trace: aio.shield(aio.create_task(turns(3))),
        "gather": lambda trace: aio.gather(turns(2), turns(3)),
        "nested wait_for": lambda trace: aio.wait_for(turns(3), LONG),
    }
    for (name, make), delay in product(makers.items(), (None, LONG, 0, -1)):
        made[f"{name} {delay}"] = waiting(make, delay)
    return made


async def every_trace(aio, turns):
    found = {}
    for name in bodies(aio):
        for turn, ours in product(turns, (True, False)):
            found[name, turn, ours] = await cancelled_in_turn(aio, bodies(aio)[name], turn, ours)
    return found


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_cancelled_at_every_point(impl, debug):
    """The trace is the same as on stock asyncio, whatever happens in which turn."""
    # In debug mode creating a task takes long.
    turns = (None, 2) if debug else (None, *range(7))
    # The loop's default handler: errors that a cancellation leaves are reported in the same way.
    found = []
    for module, factory in ((asyncio, asyncio.SelectorEventLoop), (impl.module, impl.new_event_loop)):
        with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
            runner.get_loop().set_exception_handler(lambda _loop, _context: None)
            runner.get_loop().slow_callback_duration = 60
            found.append(runner.run(every_trace(module, turns)))
        gc.collect()  # collects here, where it may warn of coroutines that were never awaited
    stock, ours = found
    for key, trace in stock.items():
        assert ours[key] == trace, key


def test_a_timeout_tells_of_itself_in_other_errors(run, aio):
    async def main():
        with pytest.raises(ValueError) as caught:
            async with aio.timeout(0):
                try:
                    await aio.sleep(LONG)
                except asyncio.CancelledError:
                    raise KeyError from None
                finally:
                    raise ValueError
        return chain(caught.value)

    found = [kind for kind, *_ in run(main())]
    if FROM_3_13:
        assert found == [ValueError, KeyError, TimeoutError, asyncio.CancelledError]
    else:
        assert found == [ValueError, KeyError, asyncio.CancelledError]


def test_a_cancellation_that_was_there_before(run, aio):
    async def main():
        task = aio.current_task()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await aio.sleep(0)
        assert task.cancelling() == 1
        with pytest.raises(TimeoutError):
            async with aio.timeout(0) as limit:
                assert limit._cancelling == 1
                await aio.sleep(LONG)
        assert task.uncancel() == 0

    run(main())


# ---- wait_for ----


def test_wait_for_results(run, aio):
    class Awaitable:
        def __await__(self):
            yield from aio.sleep(0).__await__()
            return "by its own method"

    async def give(value):
        return value

    async def raising():
        raise KeyError("x")

    async def main():
        loop = aio.get_running_loop()
        assert await aio.wait_for(give(None), 1) is None
        assert await aio.wait_for(timeout=1.5, fut=give(2)) == 2
        assert await aio.wait_for(give(3), None) == 3
        assert await aio.wait_for(aio.sleep(0, 4), Fraction(5)) == 4
        assert await aio.wait_for(Awaitable(), 1) == "by its own method"
        assert await aio.wait_for(Awaitable(), None) == "by its own method"
        assert await aio.wait_for(aio.Queue(1).put(1), 1) is None
        for delay in (1, 0, -1, None):
            future = loop.create_future()
            future.set_result("done")
            assert await aio.wait_for(future, delay) == "done"
            future = loop.create_future()
            future.set_exception(KeyError("y"))
            with pytest.raises(KeyError, match="y"):
                await aio.wait_for(future, delay)
            future = loop.create_future()
            future.cancel("z")
            with pytest.raises(asyncio.CancelledError):
                await aio.wait_for(future, delay)
        with pytest.raises(KeyError, match="x"):
            await aio.wait_for(raising(), 1)
        assert asyncio.all_tasks() == {aio.current_task()}
        await aio.sleep(0)
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]

    run(main())


def test_wait_for_mistakes(run, aio):
    async def give():
        return 1

    async def raised(awaitable, delay):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                await aio.wait_for(awaitable, delay)
            except Exception as error:
                return type(error), str(error)
            finally:
                if inspect.iscoroutine(awaitable):
                    awaitable.close()

    async def main():
        assert messages(lambda: aio.wait_for(), lambda: aio.wait_for(1), lambda: aio.wait_for(1, 2, 3)) == [
            (TypeError, "wait_for() missing 2 required positional arguments: 'fut' and 'timeout'"),
            (TypeError, "wait_for() missing 1 required positional argument: 'timeout'"),
            (TypeError, "wait_for() takes 2 positional arguments but 3 were given"),
        ]
        assert await raised(give(), "x") == (
            TypeError,
            "'<=' not supported between instances of 'str' and 'int'",
        )
        begun = give_way()
        begun.send(None)
        assert await raised(5, None) == (TypeError, await_error(5))
        if FROM_3_12:
            assert await raised(5, 1) == (TypeError, await_error(5))
            assert await raised(begun, 1) == (RuntimeError, "coroutine is being awaited already")
        else:
            text = "An asyncio.Future, a coroutine or an awaitable is required"
            assert await raised(5, 1) == (TypeError, text)
        assert aio.current_task().cancelling() == 0

    async def give_way():
        await Bare()

    class Bare:
        def __await__(self):
            yield

    def await_error(value):
        async def wait():
            await value

        try:
            wait().send(None)
        except TypeError as error:
            return str(error)

    run(main())


def test_wait_for_runs_where_asyncios_does(run, aio):
    async def main():
        me, variable = aio.current_task(), contextvars.ContextVar("variable", default=0)

        async def look():
            variable.set(1)
            return aio.current_task()

        same = await aio.wait_for(look(), 1) is me
        assert same == FROM_3_12 and variable.get() == int(FROM_3_12)
        assert await aio.wait_for(look(), None) is me
        assert variable.get() == 1

    run(main())


def test_wait_for_loses_no_result(run, aio):
    """An item that was taken from a queue when the timeout expired is returned."""

    async def main():
        queue = aio.Queue()
        got, expired = [], 0
        for number in range(300):
            aio.get_running_loop().call_later(number % 7 * 1e-5, queue.put_nowait, number)
        while len(got) < 300:
            try:
                got.append(await aio.wait_for(queue.get(), 3e-5))
            except TimeoutError:
                expired += 1
                assert expired < 100_000
        assert sorted(got) == list(range(300)) and queue.empty()

    run(main())


def test_wait_for_zero_does_not_start_a_coroutine(run, aio):
    async def never():
        raise AssertionError

    async def main():
        for delay in (0, -1, 0.0):
            with pytest.raises(TimeoutError) as caught:
                await aio.wait_for(never(), delay)
            assert type(caught.value.__cause__) is asyncio.CancelledError

    run(main())


def test_closing_and_throwing(run, aio):
    async def main():
        loop = aio.get_running_loop()
        for error in (GeneratorExit, KeyError("x")):
            future = loop.create_future()
            waiting = aio.wait_for(future, LONG)
            assert asyncio.iscoroutine(waiting)
            waiting.send(None)
            if error is GeneratorExit:
                waiting.close()
            else:
                with pytest.raises(KeyError):
                    waiting.throw(error)
            assert not [timer for timer in loop._scheduled if not timer.cancelled()]
            future.cancel()

    run(main())


# ---- subclasses, replaced methods, other loops ----


def test_subclass_and_instance_methods_are_called(run, aio):
    class Noted(aio.Timeout):
        def __init__(self, when):
            super().__init__(when)
            self.calls = []

        def reschedule(self, when):
            self.calls.append("reschedule")
            super().reschedule(when)

        def _on_timeout(self):
            self.calls.append("_on_timeout")
            super()._on_timeout()

    async def main():
        now = aio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with Noted(now + 0.001) as limit:
                await aio.sleep(LONG)
        assert limit.calls == ["reschedule", "_on_timeout"]
        limit = aio.timeout(LONG)
        calls = []
        limit.reschedule = calls.append
        limit.anything = calls
        async with limit:
            assert calls == [limit.when()] and limit.__dict__["anything"] is calls
        limit = aio.timeout(0.001)
        limit._on_timeout = lambda limit=limit: calls.append("mine") or aio.Timeout._on_timeout(limit)
        with pytest.raises(TimeoutError):
            async with limit:
                await aio.sleep(LONG)
        assert calls[-1] == "mine"
        # A new timeout in the same memory does not have the old one's attributes.
        del limit
        assert not vars(aio.timeout(1)).keys() & {"anything", "calls"}

    run(main())


def test_private_attributes_can_be_set(run, aio):
    async def main():
        limit = aio.timeout(LONG)
        limit._when = None
        async with limit:
            assert limit.when() is None
            limit._state = asyncio.timeouts._State.EXPIRING
            assert limit.expired()
            limit._state = asyncio.timeouts._State.ENTERED
        again = aio.Timeout(3)
        again.__init__(None)
        async with again:
            pass
        again.__init__(None)
        async with again:
            assert again.when() is None

    run(main())


@pytest.mark.parametrize("method", ["time", "call_at", "call_later", "call_soon"])
def test_replaced_loop_methods_are_called(run, aio, method):
    async def main():
        loop = aio.get_running_loop()
        stock, calls = getattr(loop, method), []

        def noted(*args, **kwargs):
            calls.append(args)
            return stock(*args, **kwargs)

        setattr(loop, method, noted)
        try:
            async with aio.timeout(LONG):
                pass
            if method in ("time", "call_at"):
                assert calls
            del calls[:]
            with pytest.raises(TimeoutError):
                async with aio.timeout(0):
                    await loop.create_future()
            if method in ("time", "call_soon"):
                assert calls
            del calls[:]
            assert await aio.wait_for(aio.sleep(0, 1), LONG) == 1
            if method in ("time", "call_at" if FROM_3_12 else "call_later"):
                assert calls
        finally:
            delattr(loop, method)

    run(main())


def test_moved_time(run, aio):
    async def main():
        loop = aio.get_running_loop()
        offset, stock = 0, loop.time
        loop.time = lambda: stock() + offset
        try:
            with pytest.raises(TimeoutError):
                async with aio.timeout(LONG):
                    offset = 2 * LONG
                    await loop.create_future()
        finally:
            del loop.time

    run(main())


def test_on_any_loop_in_any_task(aio):
    """The module's functions on asyncio's loop, and in tasks of other classes."""

    class OwnTask(asyncio.tasks._PyTask if sys.version_info < (3, 14) else asyncio.tasks._CTask):
        pass

    async def main():
        with pytest.raises(TimeoutError):
            async with aio.timeout(0.001) as limit:
                await asyncio.sleep(LONG)
        assert limit.expired() and asyncio.current_task().cancelling() == 0
        async with aio.timeout(LONG) as limit:
            assert limit._cancelling == 0 and limit._task is asyncio.current_task()
            assert await aio.wait_for(asyncio.sleep(0, 1), 1) == 1
        with pytest.raises(TimeoutError):
            await aio.wait_for(asyncio.get_running_loop().create_future(), 0.001)
        with pytest.raises(TimeoutError):
            await aio.wait_for(asyncio.sleep(LONG), 0)
        return type(asyncio.current_task())

    async def within(factory):
        asyncio.get_running_loop().set_task_factory(factory)
        return await asyncio.get_running_loop().create_task(main())

    rondel = pytest.importorskip("rondel")
    for loop_factory in (asyncio.SelectorEventLoop, rondel.new_event_loop):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
            kind = runner.run(within(lambda loop, coro, **kwargs: OwnTask(coro, loop=loop, **kwargs)))
            assert kind is OwnTask


def test_context_of_the_expiry(run, aio):
    """An overridden `cancel` of the task runs in the context in which the timeout was entered."""
    variable = contextvars.ContextVar("variable", default="outside")

    class Noting(aio.Task):
        def cancel(self, msg=None):
            seen.append(variable.get())
            return super().cancel(msg)

    async def main():
        variable.set("inside")
        with pytest.raises(TimeoutError):
            async with aio.timeout(0.001):
                variable.set("changed since")
                await aio.sleep(LONG)

    async def start():
        await Noting(main(), loop=aio.get_running_loop())

    seen = []
    run(start())
    assert seen == ["inside"]


# ---- timers ----


def test_each_timer_has_a_context_of_its_own(run, aio):
    async def main():
        loop, variable, seen = aio.get_running_loop(), contextvars.ContextVar("variable", default=0), []

        def change(value):
            seen.append(variable.get())
            variable.set(value)

        handles = [loop.call_later(0.001, change, number) for number in range(3)]
        variable.set("new")
        handles += [loop.call_later(0.001, change, number) for number in range(3)]
        other = contextvars.copy_context()
        other.run(variable.set, "other")
        handles.append(other.run(loop.call_later, 0.001, change, 9))
        contexts = [handle._context for handle in handles[::2]]
        assert all(contexts[0] is handles[0]._context for _ in range(2))
        assert len({id(context) for context in contexts}) == len(contexts)
        await aio.sleep(0.01)
        assert seen == [0, 0, 0, "new", "new", "new", "other"]
        assert [context.get(variable) for context in contexts] == [0, 2, 1, 9]
        assert variable.get() == "new"
        token = variable.set("short")
        loop.call_later(0.001, change, 0)
        variable.reset(token)
        loop.call_later(0.001, change, 0)
        await aio.sleep(0.01)
        assert seen[-2:] == ["short", "new"]

    run(main())


def test_values_of_variables_are_not_kept(run, aio):
    class Value:
        pass

    async def main():
        variable = contextvars.ContextVar("variable")

        async def other():
            value = Value()
            variable.set(value)
            aio.get_running_loop().call_later(LONG, print).cancel()
            return weakref.ref(value)

        alive = await aio.create_task(other())
        await aio.sleep(0.001)
        gc.collect()
        assert alive() is None

    run(main())


# ---- reference cycles ----


def test_nothing_is_kept(run, aio):
    async def main():
        class Marker:
            pass

        async def use(fail):
            marker = Marker()
            alive.append(weakref.ref(marker))
            try:
                async with aio.timeout(0 if fail else LONG) as limit:
                    limit.marker = marker
                    limit.itself = limit
                    await aio.wait_for(aio.sleep(0.002 if fail else 0), LONG)
            except TimeoutError:
                pass

        alive = []
        for fail in (False, True):
            await aio.create_task(use(fail))
        future = aio.get_running_loop().create_future()
        alive.append(weakref.ref(future))
        pending = aio.wait_for(future, LONG)
        pending.send(None)
        del pending, future
        await aio.sleep(0.001)
        gc.collect()
        assert [ref() for ref in alive] == [None] * len(alive)

    run(main())


def test_weak_references(run, aio):
    async def main():
        limit = aio.timeout(LONG)
        alive = weakref.ref(limit)
        async with limit:
            pass
        del limit
        gc.collect()
        assert alive() is None
        assert aio.timeout(LONG).when() is not None and alive() is None

    run(main())


def test_a_time_that_is_over_shows_one_frame(aio, run):
    """`wait_for` ends only when the cancelled awaitable has ended."""

    async def main():
        go_on = aio.get_running_loop().create_future()

        async def worker():
            try:
                await aio.sleep(60)
            finally:
                await go_on

        async def probe(task):
            with pytest.raises(TimeoutError):
                await aio.wait_for(task, 0)

        worker_task = aio.create_task(worker())
        await aio.sleep(0)
        task = aio.create_task(probe(worker_task))
        for _ in range(3):
            await aio.sleep(0)
        names, coroutine = [], task.get_coro()
        while hasattr(coroutine, "cr_await"):
            if coroutine.cr_frame is not None:
                names.append(coroutine.cr_frame.f_code.co_name)
            coroutine = coroutine.cr_await
        go_on.set_result(None)
        await task
        return names

    assert run(main()) == ["probe", "wait_for", "_cancel_and_wait"]
