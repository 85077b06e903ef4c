"""Programs that replace `_run_once`, `_selector.select` or `Handle._run`.

nest_asyncio, virtual clocks and profilers do that. None of it is documented, and all of it works on
asyncio.
"""

import asyncio
import functools
import heapq
import selectors
import socket
import sys
import threading
import time
from asyncio import events
from unittest import mock

import pytest


@pytest.fixture
def loop_class(impl):
    """A subclass of the implementation's loop class, which a test may change."""
    base = type(impl.new_event_loop)
    loop = impl.new_event_loop()
    base = type(loop)
    loop.close()
    return type("ChangedLoop", (base,), {})


@pytest.fixture
def changed(loop_class, problems):
    loop = loop_class()
    loop.slow_callback_duration = 60
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    yield loop
    loop.close()
    assert not problems


# ---- a program's own `_run_once` ----


def nest(cls):
    """Make a class of loops re-entrant, in the same way as nest_asyncio."""

    class Running:
        def __init__(self, loop):
            self.loop = loop

        def __enter__(self):
            self.before = self.loop._thread_id, events._get_running_loop()
            self.loop._thread_id = threading.get_ident()
            events._set_running_loop(self.loop)

        def __exit__(self, *_):
            self.loop._thread_id = self.before[0]
            events._set_running_loop(self.before[1])

    def run_until_complete(self, future):
        self._check_closed()
        with Running(self):
            future = asyncio.ensure_future(future, loop=self)
            while not future.done():
                self._run_once()
                if self._stopping:
                    break
            if not future.done():
                raise RuntimeError("Event loop stopped before Future completed.")
            return future.result()

    def run_forever(self):
        with Running(self):
            while True:
                self._run_once()
                if self._stopping:
                    break
        self._stopping = False

    def _run_once(self):
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)
        timeout = None
        if ready or self._stopping:
            timeout = 0
        elif scheduled:
            timeout = max(scheduled[0]._when - self.time(), 0)
        self._process_events(self._selector.select(timeout))
        end = self.time() + self._clock_resolution
        while scheduled and scheduled[0]._when < end:
            ready.append(heapq.heappop(scheduled))
        for _ in range(len(ready)):
            if not ready:
                break
            handle = ready.popleft()
            if not handle._cancelled:
                swap = getattr(asyncio.tasks, "_swap_current_task", None)
                if sys.version_info >= (3, 14):
                    current = swap(self, None)
                else:
                    current = asyncio.tasks._current_tasks.pop(self, None)
                try:
                    handle._run()
                finally:
                    if current is not None:
                        if sys.version_info >= (3, 14):
                            swap(self, current)
                        else:
                            asyncio.tasks._current_tasks[self] = current

    cls.run_until_complete, cls.run_forever, cls._run_once = run_until_complete, run_forever, _run_once
    cls._check_running = lambda self: None


@pytest.fixture
def nested(loop_class, problems):
    nest(loop_class)
    loop = loop_class()
    loop.slow_callback_duration = 60
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    yield loop
    loop.close()
    assert not problems


async def echo(aio):
    async def answer(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    server = await aio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"line\n")
    received = await reader.read()
    writer.close()
    server.close()
    return received


def test_a_loop_runs_within_a_step_of_itself(nested, aio):
    order = []

    async def inner(n):
        order.append(("begin", n, asyncio.current_task().get_name()))
        await aio.sleep(0.001)
        order.append(("end", n, asyncio.current_task().get_name()))
        return n

    async def main():
        task = asyncio.current_task()
        other = nested.create_task(inner(1), name="other")
        assert nested.run_until_complete(nested.create_task(inner(2), name="inner")) == 2
        assert other.done() and asyncio.current_task() is task
        assert nested.run_until_complete(echo(aio)) == b"line\n"
        assert asyncio.current_task() is task and asyncio.get_running_loop() is nested
        await aio.sleep(0)
        assert asyncio.current_task() is task
        return "done"

    assert nested.run_until_complete(nested.create_task(main(), name="main")) == "done"
    assert order == [
        ("begin", 1, "other"),
        ("begin", 2, "inner"),
        ("end", 1, "other"),
        ("end", 2, "inner"),
    ]
    assert not nested.is_running()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_a_loop_is_made_re_entrant_while_it_runs(loop_class, aio):
    class Nested(loop_class):
        pass

    async def inner(n):
        await aio.sleep(0.001)
        return n

    async def main():
        nest(Nested)
        loop.set_debug(False)  # like nest_asyncio's run()
        assert loop.run_until_complete(inner(1)) == 1
        assert await inner(2) == 2
        assert loop.run_until_complete(inner(3)) == 3
        return "done"

    loop = Nested()
    try:
        assert loop.run_until_complete(main()) == "done"
    finally:
        loop.close()


def test_a_loop_runs_deep_within_itself(nested, aio):
    async def deep(n):
        if not n:
            await aio.sleep(0.001)
            return 0
        return 1 + nested.run_until_complete(deep(n - 1))

    assert nested.run_until_complete(deep(10)) == 10


def test_what_the_inner_run_raises_comes_out_of_it(nested, aio):
    async def fail():
        await aio.sleep(0)
        raise ValueError("inner")

    async def interrupt():
        raise KeyboardInterrupt

    async def main():
        with pytest.raises(ValueError, match="inner"):
            nested.run_until_complete(fail())
        with pytest.raises(KeyboardInterrupt):
            nested.run_until_complete(interrupt())
        await aio.sleep(0)
        return asyncio.current_task() is not None

    assert nested.run_until_complete(main())


def test_an_inner_run_cancels_and_times_out(nested, aio):
    async def slow():
        await aio.sleep(60)

    async def timed():
        with pytest.raises(TimeoutError):
            await aio.wait_for(slow(), 0.001)
        return "timed out"

    async def main():
        task = nested.create_task(slow())
        nested.call_later(0.001, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            nested.run_until_complete(task)
        return nested.run_until_complete(timed())

    assert nested.run_until_complete(main()) == "timed out"


def test_other_threads_wake_an_inner_run(nested, aio):
    async def main():
        return nested.run_until_complete(aio.to_thread(time.sleep, 0.01)), nested.run_until_complete(
            nested.run_in_executor(None, lambda: 5)
        )

    assert nested.run_until_complete(main()) == (None, 5)


def test_stop_ends_the_inner_run_alone(nested, aio):
    async def main():
        nested.call_soon(nested.stop)
        nested.run_forever()
        await aio.sleep(0.001)
        return "still here"

    assert nested.run_until_complete(main()) == "still here"


def test_an_inner_run_sends_and_receives_for_the_outer_one(nested, aio):
    """The inner run sends data written before it, and serves the outer run's transports."""

    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            reader, writer = await aio.open_connection(sock=ours)
            writer.write(b"question")
            assert nested.run_until_complete(nested.sock_recv(theirs, 100)) == b"question"
            theirs.send(b"answer")
            assert nested.run_until_complete(reader.readexactly(6)) == b"answer"
            writer.write(b"last")
            nested.run_until_complete(aio.sleep(0))
            assert theirs.recv(100) == b"last"
            writer.close()
            await writer.wait_closed()

    nested.run_until_complete(main())


def test_native_code_runs_within_a_step_if_the_check_is_replaced(impl, changed, aio):
    """Like some programs, with the loop's own `run_forever`."""
    type(changed)._check_running = lambda self: None

    async def inner():
        await aio.sleep(0.001)
        return asyncio.current_task()

    async def main():
        task = asyncio.current_task()
        # From 3.14 on only the running loop's current task can be changed.
        if sys.version_info >= (3, 14):
            asyncio.tasks._swap_current_task(changed, None)
        else:
            asyncio.tasks._leave_task(changed, task)
        events._set_running_loop(None)
        future = changed.create_task(inner())
        try:
            assert changed.run_until_complete(future) is future
        finally:
            events._set_running_loop(changed)
            if sys.version_info >= (3, 14):
                asyncio.tasks._swap_current_task(changed, task)
            else:
                asyncio.tasks._enter_task(changed, task)
        return asyncio.current_task() is task and changed.is_running()

    if not impl.is_rondel:
        pytest.skip("asyncio's own _run_once does not survive an inner run")
    assert changed.run_until_complete(main())
    assert not changed.is_running()


def test_run_once_replaced_on_a_class_is_each_turn(loop_class, aio, problems):
    turns = []
    original = loop_class._run_once

    def run_once(self):
        turns.append(len(self._ready))
        original(self)

    loop_class._run_once = run_once
    loop = loop_class()
    try:
        loop.run_until_complete(aio.sleep(0))
        assert 2 <= len(turns) <= 4 and turns[0] == 1
        before = len(turns)
        loop.run_until_complete(aio.sleep(0.001))
        assert len(turns) > before
    finally:
        loop.close()


def test_run_once_replaced_while_the_loop_runs(run, aio):
    async def main():
        loop = asyncio.get_running_loop()
        turns = []
        original = loop._run_once

        def run_once():
            turns.append(1)
            original()

        loop._run_once = run_once
        for _ in range(5):
            await aio.sleep(0)
        counted = len(turns)
        del loop._run_once
        await aio.sleep(0)
        await aio.sleep(0)
        return counted, len(turns)

    counted, after = run(main())
    assert 4 <= counted <= 5 and counted <= after <= counted + 1


def test_run_once_by_hand(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(lambda: loop.call_soon(seen.append, 2))
    loop._run_once()
    assert seen == [1]
    loop._run_once()
    assert seen == [1, 2]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.add_reader(ours, lambda: seen.append(ours.recv(10)))
        theirs.send(b"3")
        loop._run_once()
        loop.remove_reader(ours)
    loop.call_later(0.001, seen.append, 4)
    while len(seen) < 4:
        loop._run_once()
    assert seen == [1, 2, b"3", 4]


# ---- `_ready` ----


def test_ready_is_a_live_queue(loop):
    seen = []
    handles = [loop.call_soon(seen.append, number) for number in range(4)]
    ready = loop._ready
    assert len(ready) == 4 and bool(ready) and list(ready) == handles and ready[0] is handles[0]
    assert ready.popleft() is handles[0]
    ready.append(handles[0])
    assert ready.pop() is handles[0]
    ready.appendleft(handles[0])
    ready.rotate(1)
    ready.remove(handles[1])
    assert list(loop._ready) == [handles[3], handles[0], handles[2]]
    ready.extendleft([handles[1]])
    loop._run_once()
    assert seen == [1, 3, 0, 2]
    assert not loop._ready
    with pytest.raises(IndexError):
        loop._ready.popleft()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="from 3.14 on a task steps on the running loop only")
def test_a_ready_task_is_a_handle(loop, aio):
    seen = []

    async def main():
        seen.append("step")

    task = loop.create_task(main())
    handle = loop._ready.popleft()
    assert isinstance(handle, asyncio.Handle) and not handle.cancelled()
    assert handle._callback.__self__ is task
    assert handle._context is not None
    handle._run()
    assert seen == ["step"] and task.done()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="from 3.14 on a task steps on the running loop only")
def test_handles_of_a_programs_own_class_run_by_their_own_method(loop):
    seen = []

    class Own(asyncio.Handle):
        def _run(self):
            seen.append("own")
            super()._run()

    loop._ready.append(Own(seen.append, ("callback",), loop))
    loop._run_once()
    assert seen == ["own", "callback"]


# ---- the selector ----


def test_the_selector_shows_what_is_watched(loop):
    ours, theirs = socket.socketpair()
    selector = loop._selector
    own = len(selector.get_map())
    with ours, theirs:
        loop.add_reader(ours, print)
        key = selector.get_key(ours)
        assert (key.fd, key.events) == (ours.fileno(), selectors.EVENT_READ)
        reader, writer = key.data
        assert reader._callback is print and writer is None
        loop.add_writer(ours, print)
        assert selector.get_key(ours).events == selectors.EVENT_READ | selectors.EVENT_WRITE
        assert len(selector.get_map()) == own + 1 and ours.fileno() in selector.get_map()
        found = {key.fd: mask for key, mask in selector.select(0)}
        assert found == {ours.fileno(): selectors.EVENT_WRITE}
        theirs.send(b"x")
        found = {key.fd: mask for key, mask in selector.select(1)}
        assert found == {ours.fileno(): selectors.EVENT_READ | selectors.EVENT_WRITE}
        loop.remove_reader(ours)
        loop.remove_writer(ours)
        with pytest.raises(KeyError):
            selector.get_key(ours)
    assert isinstance(selector, selectors.BaseSelector)


def test_the_selector_takes_registrations(loop):
    seen = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handle = asyncio.Handle(lambda: seen.append(ours.recv(10)), (), loop)
        loop._selector.register(ours, selectors.EVENT_READ, (handle, None))
        with pytest.raises(KeyError):
            loop._selector.register(ours, selectors.EVENT_READ, (handle, None))
        theirs.send(b"x")
        loop._process_events(loop._selector.select(1))
        assert list(loop._ready) == [handle]
        loop._ready.popleft()._run()
        assert seen == [b"x"]
        assert loop._selector.unregister(ours).data == (handle, None)
        with pytest.raises(KeyError):
            loop._selector.unregister(ours)


class VirtualClock:
    """A clock that advances instead of waiting, like aiotools'."""

    def __init__(self):
        self.now = 0.0
        self.timeouts = []

    def time(self):
        return self.now

    def patched(self, loop):
        def select(original, timeout):
            self.timeouts.append(timeout)
            if timeout is not None:
                self.now += timeout
            return original(0)

        return (
            mock.patch.object(loop._selector, "select", functools.partial(select, loop._selector.select)),
            mock.patch.object(loop, "_clock_resolution", 0.001),
            mock.patch.object(loop, "time", self.time),
        )


def test_a_replaced_select_moves_the_time(run, aio):
    async def main():
        loop = asyncio.get_running_loop()
        clock = VirtualClock()
        first, second, third = clock.patched(loop)
        real = time.monotonic()
        with first, second, third:
            before = loop.time()
            await aio.sleep(100)
            assert loop.time() - before == pytest.approx(100, abs=0.01)
            with pytest.raises(TimeoutError):
                await aio.wait_for(aio.sleep(1000), 10)
            assert loop.time() == pytest.approx(110, abs=0.01)
            results = await aio.gather(*(aio.sleep(delay, delay) for delay in (0.3, 0.1, 0.2)))
            assert results == [0.3, 0.1, 0.2]
            assert loop.time() == pytest.approx(110.3, abs=0.01)
        assert time.monotonic() - real < 5
        assert clock.timeouts and 0 in clock.timeouts
        counted = len(clock.timeouts)
        real = time.monotonic()
        await aio.sleep(0.02)
        assert time.monotonic() - real >= 0.019 and len(clock.timeouts) == counted

    run(main())


def test_a_replaced_select_is_asked_in_each_turn_and_may_report_nothing(run, aio):
    """`select` reports sockets, and other threads wake it."""

    async def main():
        loop = asyncio.get_running_loop()
        asked = []
        original = loop._selector.select

        def select(timeout=None):
            asked.append(timeout)
            return original(timeout)

        loop._selector.select = select
        for _ in range(5):
            await aio.sleep(0)
        assert asked.count(0) >= 4
        assert await echo(aio) == b"line\n"
        assert await aio.to_thread(lambda: 5) == 5
        del loop._selector.select
        await aio.sleep(0)
        counted = len(asked)
        await aio.sleep(0)
        return len(asked) - counted

    assert run(main()) == 0


def test_what_woke_the_loop_is_reported_until_it_is_processed(loop):
    """looptime calls `select` twice, the second time without a timeout."""
    seen = []
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(seen.append, 1))
    thread.start()
    events_found = loop._selector.select(5)
    thread.join()
    again = loop._selector.select(5)
    assert events_found or loop._ready
    assert again or loop._ready
    loop._process_events(events_found + again)
    loop._run_once()
    assert seen == [1]


def test_another_thread_wakes_a_loop_that_is_run_by_hand(loop):
    """Both during the wait and before it."""
    seen = []
    for delay in (0, 0.05):
        thread = threading.Timer(delay, loop.call_soon_threadsafe, (seen.append, delay))
        began = time.monotonic()
        thread.start()
        if not delay:
            thread.join()
        watchdog = loop.call_later(20, seen.append, "never woken")
        while not seen:
            loop._run_once()
        thread.join()
        watchdog.cancel()
        assert seen == [delay] and time.monotonic() - began < 10
        seen.clear()
    thread = threading.Timer(0.05, loop.call_soon_threadsafe, (seen.append, 1))
    thread.start()
    began = time.monotonic()
    assert loop._selector.select(20)
    assert time.monotonic() - began < 10
    thread.join()


def test_what_a_replaced_select_raises_ends_the_run(loop):
    def select(timeout=None):
        raise OSError("no more")

    loop._selector.select = select
    with pytest.raises(OSError, match="no more"):
        loop.run_until_complete(asyncio.sleep(0))
    del loop._selector.select
    loop.run_until_complete(asyncio.sleep(0))


def test_a_selector_in_the_place_of_the_loops(run, aio):
    """A wrapper around `select`, like a monitor's."""

    async def main():
        loop = asyncio.get_running_loop()

        class Counting:
            def __init__(self, selector):
                self.selector, self.count = selector, 0

            def select(self, timeout=None):
                self.count += 1
                return self.selector.select(timeout)

            def __getattr__(self, name):
                return getattr(self.selector, name)

        original = loop._selector
        loop._selector = counting = Counting(original)
        assert await echo(aio) == b"line\n"
        loop._selector = original
        return counting.count

    assert run(main()) > 3


def test_a_class_that_is_put_on_a_loop(impl, changed, aio):
    """looptime changes the class of an existing loop."""

    class Moved:
        def time(self):
            return super().time() + 1000

        def call_soon(self, *args, **kwargs):
            self.called = True
            return super().call_soon(*args, **kwargs)

    changed.__class__ = type("MovedLoop", (Moved, type(changed)), {})
    assert changed.time() > 1000
    changed.run_until_complete(aio.sleep(0.001))
    assert changed.called


# ---- Handle._run ----


@pytest.fixture
def noted(aio, impl):
    """Patch `Handle._run` like profilers, and record what it runs."""
    noted = []
    original = events.Handle._run

    def _run(self):
        noted.append((type(self).__name__, self._callback, self._context is not None))
        return original(self)

    events.Handle._run = _run
    yield noted
    events.Handle._run = original


def test_a_replaced_handle_run_sees_all_that_runs(noted, run, aio):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        loop.call_soon(seen.append, 1)
        loop.call_later(0.001, seen.append, 2)
        loop.call_soon_threadsafe(seen.append, 3)
        task = loop.create_task(aio.sleep(0.002))
        await task
        assert sorted(seen) == [1, 2, 3]
        assert await echo(aio) == b"line\n"
        return task

    task = run(main())
    callbacks = [callback for _, callback, _ in noted]
    assert len(noted) > 10 and all(has_context for *_, has_context in noted)
    assert any(getattr(callback, "__self__", None) is task for callback in callbacks)
    assert sum(getattr(callback, "__name__", "") == "append" for callback in callbacks) == 3
    counted = len(noted)
    assert counted


def test_handle_run_replaced_while_the_loop_runs(run, aio):
    async def main():
        names, original = [], events.Handle._run

        def _run(self):
            names.append(1)
            return original(self)

        events.Handle._run = _run
        try:
            await aio.sleep(0.01)
            await aio.sleep(0)
        finally:
            events.Handle._run = original
        counted = len(names)
        await aio.sleep(0.01)
        await aio.sleep(0)
        return counted, len(names)

    counted, after = run(main())
    assert counted >= 1 and after <= counted + 1


def test_what_a_replaced_handle_run_raises_leaves_the_loop(loop):
    original = events.Handle._run

    def _run(self):
        raise LookupError("patched")

    loop.call_soon(print)
    events.Handle._run = _run
    try:
        with pytest.raises(LookupError, match="patched"):
            loop.run_forever()
    finally:
        events.Handle._run = original
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [1]


def test_handles_and_steps_work_under_a_replaced_handle_run(noted, run, aio):
    """Contexts, exceptions and cancellation still work."""
    import contextvars

    variable = contextvars.ContextVar("variable", default=0)

    async def child(n):
        variable.set(n)
        await aio.sleep(0)
        return variable.get(), asyncio.current_task().get_name()

    async def main():
        variable.set(7)
        results = await aio.gather(*(aio.create_task(child(n), name=str(n)) for n in range(3)))
        assert results == [(0, "0"), (1, "1"), (2, "2")] and variable.get() == 7
        task = aio.create_task(aio.sleep(60))
        await aio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with aio.timeout(5), aio.TaskGroup() as group:
            group.create_task(child(1))
        return variable.get()

    assert run(main()) == 7


def test_nothing_counts_as_replaced_in_a_program_that_replaces_nothing(impl):
    """Each overridden method makes internal calls slower: no method must be reported by mistake."""
    if not impl.is_rondel:
        pytest.skip("asyncio has no other way")
    loop = impl.new_event_loop()
    try:
        assert loop._runs_in_executor_directly()
        assert not loop._overridden()
        loop.run_until_complete(asyncio.sleep(0))
        assert not loop._overridden()
        loop.call_soon = loop.call_soon
        assert loop._overridden()
    finally:
        loop.close()
