"""Locks, events, conditions, semaphores and barriers: order, errors, texts, attributes."""

import asyncio
import collections
import gc
import inspect
import math
import weakref

import pytest

NAMES = (
    "Lock",
    "Event",
    "Condition",
    "Semaphore",
    "BoundedSemaphore",
    "Barrier",
    "Queue",
    "PriorityQueue",
    "LifoQueue",
)


def make(aio, name):
    return getattr(aio, name)(*([2] if name == "Barrier" else []))


@pytest.mark.parametrize("name", NAMES)
def test_instances_are_asyncios_and_can_be_extended(aio, name):
    stock, cls = getattr(asyncio, name), getattr(aio, name)
    each = make(aio, name)
    assert isinstance(each, stock)
    each.note = 1
    assert vars(each)["note"] == 1
    assert weakref.ref(each)() is each

    class Mine(cls):
        def __init__(self, *args):
            super().__init__(*args)
            self.mine = True

    assert make(type("Holder", (), {name: Mine}), name).mine
    assert issubclass(Mine, stock)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("derived", [False, True])
def test_cycles_are_collected(aio, name, derived):
    cls = getattr(aio, name)
    if derived:
        cls = type("Mine", (cls,), {})
    each = cls(*([2] if name == "Barrier" else []))
    each.itself = each
    gone = weakref.ref(each)
    del each
    gc.collect()
    assert gone() is None


def test_a_queue_in_itself_is_collected(aio):
    for name in ("Queue", "LifoQueue"):
        queue = make(aio, name)
        queue.put_nowait(queue)
        gone = weakref.ref(queue)
        del queue
        gc.collect()
        assert gone() is None


def test_subclass_relations(aio):
    assert issubclass(aio.BoundedSemaphore, aio.Semaphore)
    assert issubclass(aio.PriorityQueue, aio.Queue)
    assert issubclass(aio.LifoQueue, aio.Queue)
    assert not issubclass(aio.Lock, aio.Event)


def test_reprs(aio, run):
    def text(each):
        return repr(each).partition("[")[2]

    async def main():
        lock, event, semaphore = aio.Lock(), aio.Event(), aio.Semaphore(2)
        condition, barrier = aio.Condition(), aio.Barrier(3)
        seen = [text(each) for each in (lock, event, semaphore, condition, barrier)]
        await lock.acquire()
        await semaphore.acquire()
        tasks = [aio.create_task(each) for each in (lock.acquire(), event.wait(), barrier.wait())]
        await aio.sleep(0)
        await aio.sleep(0)
        await aio.sleep(0)
        seen += [text(each) for each in (lock, event, semaphore, barrier)]
        lock.release()
        event.set()
        await barrier.abort()
        seen += [text(barrier), text(event)]
        await aio.gather(*tasks, return_exceptions=True)
        return seen

    assert run(main()) == [
        "unlocked]>",
        "unset]>",
        "unlocked, value:2]>",
        "unlocked]>",
        "filling, waiters:0/3]>",
        "locked, waiters:1]>",
        "unset, waiters:1]>",
        "unlocked, value:1]>",
        "filling, waiters:1/3]>",
        "broken]>",
        "set, waiters:1]>",
    ]


def test_attributes(aio, run):
    async def main():
        lock, semaphore, event, condition = aio.Lock(), aio.Semaphore(), aio.Event(), aio.Condition()
        assert lock._waiters is None and semaphore._waiters is None
        assert event._waiters == condition._waiters == collections.deque()
        assert (lock._locked, semaphore._value, event._value, lock._loop) == (False, 1, False, None)
        assert condition.locked.__self__ is condition._lock
        await lock.acquire()
        waiting = aio.create_task(lock.acquire())
        await aio.sleep(0)
        assert lock._loop is aio.get_running_loop()
        # Once a program has read `_waiters`, the lock uses that deque.
        (waiter,) = lock._waiters
        assert isinstance(lock._waiters, collections.deque) and isinstance(waiter, asyncio.Future)
        lock.release()
        assert await waiting is True
        assert not lock._waiters
        semaphore._value = 2
        assert await semaphore.acquire() and await semaphore.acquire() and semaphore.locked()
        event._value = True
        assert await event.wait() is True
        with pytest.raises(AttributeError):
            semaphore._bound_value
        assert aio.BoundedSemaphore(3)._bound_value == 3

    run(main())


def test_errors(aio, run):
    def message(kind, call, *args, **kwargs):
        with pytest.raises(kind) as caught:
            call(*args, **kwargs)
        return str(caught.value)

    async def main():
        assert message(RuntimeError, aio.Lock().release) == "Lock is not acquired."
        assert message(ValueError, aio.Semaphore, -1) == "Semaphore initial value must be >= 0"
        assert message(ValueError, aio.BoundedSemaphore().release) == "BoundedSemaphore released too many times"
        assert message(RuntimeError, aio.Condition().notify) == "cannot notify on un-acquired lock"
        assert message(RuntimeError, aio.Condition().notify_all) == "cannot notify on un-acquired lock"
        assert message(ValueError, aio.Barrier, 0) == message(ValueError, asyncio.Barrier, 0)
        assert "unexpected keyword argument 'loop'" in message(TypeError, aio.Lock, loop=None)
        assert "'<' not supported" in message(TypeError, aio.Semaphore, "many")
        with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
            await aio.Condition().wait()
        with pytest.raises(TypeError, match="'str' object|not supported"):
            await aio.sleep("long")

    run(main())


@pytest.mark.parametrize("name", NAMES)
def test_what_was_used_in_another_loop(aio, impl, name):
    """RuntimeError, and only if a task would have to wait."""
    each = make(aio, name)

    async def wait():
        if name == "Lock":
            await each.acquire()
        elif name in ("Semaphore", "BoundedSemaphore"):
            each._value = 0
            await each.acquire()
        elif name == "Condition":
            async with each:
                await each.wait()
        elif name in ("Barrier", "Event"):
            await each.wait()
        else:
            await each.get()

    async def first():
        if name == "Lock":
            await each.acquire()
        task = aio.create_task(wait())
        await aio.sleep(0)
        await aio.sleep(0)
        task.cancel()
        await aio.wait([task])

    with impl.module.Runner(loop_factory=impl.new_event_loop) as runner:
        runner.run(first())
    with (
        impl.module.Runner(loop_factory=impl.new_event_loop) as runner,
        pytest.raises(RuntimeError, match=r"is bound to a different event loop"),
    ):
        runner.run(wait())


def test_without_a_loop_what_does_not_wait_works(aio):
    lock, queue = aio.Lock(), aio.Queue()
    with pytest.raises(StopIteration) as stop:
        lock.acquire().send(None)
    assert stop.value.value is True and lock.locked()
    queue.put_nowait(1)
    with pytest.raises(StopIteration) as stop:
        queue.get().send(None)
    assert stop.value.value == 1


def test_a_lock_is_fair(aio, run):
    async def main():
        lock, order = aio.Lock(), []
        await lock.acquire()

        async def take(number):
            async with lock:
                order.append(number)

        tasks = [aio.create_task(take(number)) for number in range(5)]
        await aio.sleep(0)
        lock.release()
        # A new waiter must wait behind the earlier ones.
        await lock.acquire()
        order.append("late")
        lock.release()
        await aio.gather(*tasks)
        return order

    assert run(main()) == [0, 1, 2, 3, 4, "late"]


def test_a_semaphore_is_fair(aio, run):
    async def main():
        semaphore, order = aio.Semaphore(2), []

        async def take(number):
            async with semaphore:
                order.append(number)
                await aio.sleep(0)
                order.append(-number)

        await aio.gather(*(take(number) for number in range(1, 6)))
        assert semaphore._value == 2
        return order

    assert run(main()) == run(stock_semaphore_order())


async def stock_semaphore_order():
    semaphore, order = asyncio.Semaphore(2), []

    async def take(number):
        async with semaphore:
            order.append(number)
            await asyncio.sleep(0)
            order.append(-number)

    await asyncio.gather(*(take(number) for number in range(1, 6)))
    return order


def test_a_semaphore_counts_what_can_be_counted(aio, run):
    async def main():
        endless = aio.Semaphore(math.inf)
        for _ in range(3):
            assert await endless.acquire()
        assert endless._value == math.inf and not endless.locked()
        endless.release()
        large = aio.BoundedSemaphore(2**70)
        await large.acquire()
        assert large._value == 2**70 - 1
        large.release()
        with pytest.raises(ValueError, match="too many times"):
            large.release()

    run(main())


def test_an_event_wakes_all(aio, run):
    async def main():
        event = aio.Event()
        tasks = [aio.create_task(event.wait()) for _ in range(4)]
        await aio.sleep(0)
        event.set()
        event.clear()
        assert await aio.gather(*tasks) == [True] * 4
        assert not event.is_set()

    run(main())


def test_conditions(aio, run):
    async def main():
        condition, order = aio.Condition(), []

        async def wait(number):
            async with condition:
                assert await condition.wait() is True
                assert condition.locked()
                order.append(number)

        tasks = [aio.create_task(wait(number)) for number in range(4)]
        await aio.sleep(0)
        await aio.sleep(0)
        async with condition:
            condition.notify(2)
            assert order == []
        for _ in range(4):
            await aio.sleep(0)
        assert order == [0, 1]
        async with condition:
            condition.notify_all()
        await aio.gather(*tasks)
        assert order == [0, 1, 2, 3]
        ready = []
        for_it = aio.create_task(under(condition, lambda: condition.wait_for(lambda: ready)))
        await aio.sleep(0)
        async with condition:
            condition.notify_all()
        await aio.sleep(0)
        assert not for_it.done()
        async with condition:
            ready.append("yes")
            condition.notify()
        assert await for_it == ["yes"]

    async def under(condition, make_awaitable):
        async with condition:
            return await make_awaitable()

    run(main())


def test_a_condition_on_a_lock_of_any_kind(aio, run):
    class Counting(aio.Lock):
        taken = 0

        async def acquire(self):
            self.taken += 1
            return await super().acquire()

    async def main():
        for lock in (aio.Lock(), asyncio.Lock(), Counting(), aio.Semaphore()):
            condition = aio.Condition(lock)
            assert condition._lock is lock

            async def wait(condition=condition):
                async with condition:
                    return await condition.wait()

            task = aio.create_task(wait())
            await aio.sleep(0)
            await aio.sleep(0)
            async with condition:
                assert lock.locked()
                condition.notify()
            assert await task is True
            assert not lock.locked()
        assert Counting.taken == 0 and aio.Condition(Counting())._lock.taken == 0

    run(main())


def test_barriers(aio, run):
    async def main():
        barrier = aio.Barrier(3)
        assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
        for _ in range(2):
            numbers = await aio.gather(*(barrier.wait() for _ in range(3)))
            assert sorted(numbers) == [0, 1, 2]
        waiting = [aio.create_task(barrier.wait()) for _ in range(2)]
        await aio.sleep(0)
        await aio.sleep(0)
        assert barrier.n_waiting == 2
        await barrier.reset()
        for outcome in await aio.gather(*waiting, return_exceptions=True):
            assert repr(outcome) == "BrokenBarrierError('Abort or reset of barrier')"
        assert not barrier.broken and barrier.n_waiting == 0

        async def enter():
            async with barrier as number:
                return number

        assert sorted(await aio.gather(*(enter() for _ in range(3)))) == [0, 1, 2]
        await barrier.abort()
        assert barrier.broken
        with pytest.raises(aio.BrokenBarrierError, match="Barrier aborted"):
            await barrier.wait()

    run(main())


def test_overridden_methods_are_called(aio, run):
    calls = []

    class Mine(aio.Lock):
        async def acquire(self):
            calls.append("acquire")
            return await super().acquire()

        def release(self):
            calls.append("release")
            super().release()

    class Limited(aio.Semaphore):
        def locked(self):
            calls.append("locked")
            return super().locked()

    async def main():
        async with Mine():
            pass
        async with Limited():
            pass
        lock = aio.Lock()
        lock.release = lambda: calls.append("patched")
        async with lock:
            pass
        assert lock.locked()

    run(main())
    assert calls == ["acquire", "release", "locked", "patched"]


def awaitables(aio):
    lock, event, semaphore, queue = aio.Lock(), aio.Event(), aio.Semaphore(), aio.Queue()
    condition = aio.Condition()
    return {
        "Lock.acquire": lock.acquire(),
        "Semaphore.acquire": semaphore.acquire(),
        "Event.wait": event.wait(),
        "Condition.wait": condition.wait(),
        "Condition.wait_for": condition.wait_for(bool),
        "Barrier.wait": aio.Barrier(1).wait(),
        "Barrier.reset": aio.Barrier(1).reset(),
        "Barrier.abort": aio.Barrier(1).abort(),
        "Queue.get": queue.get(),
        "Queue.put": queue.put(1),
        "Queue.join": queue.join(),
        "sleep": aio.sleep(0),
        "_ContextManagerMixin.__aenter__": lock.__aenter__(),
        "_ContextManagerMixin.__aexit__": lock.__aexit__(None, None, None),
    }


def test_awaitables_pass_for_coroutines(aio):
    for name, each in awaitables(aio).items():
        assert asyncio.iscoroutine(each) and inspect.isawaitable(each), name
        assert each.__qualname__ == name
        each.close()
        each.close()
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            each.send(None)


def test_awaitables_can_be_tasks(aio, run):
    async def main():
        queue, lock, event = aio.Queue(), aio.Lock(), aio.Event()
        tasks = [aio.create_task(each) for each in (queue.get(), lock.acquire(), event.wait(), aio.sleep(0, "slept"))]
        await aio.sleep(0)
        await aio.create_task(queue.put("item"))
        event.set()
        assert await aio.gather(*tasks) == ["item", True, True, "slept"]

    run(main())


def test_nothing_happens_before_the_await(aio, run):
    async def main():
        lock, queue = aio.Lock(), aio.Queue()
        acquire, put = lock.acquire(), queue.put(1)
        assert not lock.locked() and queue.empty()
        await acquire
        await put
        leave = lock.__aexit__(None, None, None)
        assert lock.locked()
        await leave
        assert not lock.locked()

    run(main())


def test_what_was_never_awaited_is_warned_of(aio):
    each = awaitables(aio)
    while each:
        name, dropped = each.popitem()
        with pytest.warns(RuntimeWarning, match=rf"coroutine '{name}' was never awaited"):
            del dropped


def test_a_suspended_wait_that_is_dropped_leaves_the_queue(aio, loop):
    """Like a coroutine's destructor: it closes the awaitable, so that cleanup code runs."""
    event, queue, lock = aio.Event(), aio.Queue(), aio.Lock()

    async def main():
        await lock.acquire()
        for wait in (event.wait, queue.get, lock.acquire):
            waiting = wait()
            waiting.send(None)
            assert [len(event._waiters), len(queue._getters), len(lock._waiters or ())].count(1) == 1
            del waiting
            assert not event._waiters and not queue._getters and not lock._waiters

    loop.run_until_complete(main())


def test_sleep(aio, loop):
    async def main():
        assert await aio.sleep(0) is None
        assert await aio.sleep(-1, "result") == "result"
        before = loop.time()
        assert await aio.sleep(0.01, result=7) == 7
        assert loop.time() - before >= 0.0099
        assert await aio.sleep(delay=0.001) is None
        handles = []
        call_later = loop.call_later
        loop.call_later = lambda *args: handles.append(call_later(*args)) or handles[-1]
        task = aio.create_task(aio.sleep(60))
        await aio.sleep(0)
        task.cancel()
        await aio.wait([task])
        assert task.cancelled() and [handle.cancelled() for handle in handles] == [True]
        del loop.call_later

    loop.run_until_complete(main())


def test_sleep_by_a_replaced_clock(aio, loop):
    """A replaced `loop.time` or `loop.call_later` is called."""
    delays = []

    def call_later(delay, callback, *args, context=None):
        delays.append(delay)
        return type(loop).call_later(loop, 0, callback, *args, context=context)

    loop.call_later = call_later
    assert loop.run_until_complete(aio.sleep(3600, "over")) == "over"
    assert delays == [3600]
    del loop.call_later


def test_sleep_arguments(aio):
    for args in ((), (1, 2, 3)):
        with pytest.raises(TypeError) as caught:
            aio.sleep(*args)
        with pytest.raises(TypeError) as expected:
            asyncio.sleep(*args)
        assert str(caught.value) == str(expected.value)
    with pytest.raises(TypeError, match="unexpected keyword argument 'loop'"):
        aio.sleep(1, loop=None)


def test_sleep_not_a_number(aio, run):
    # From 3.13 on. Earlier versions wait forever.
    if "NaN" not in (inspect.getsource(asyncio.tasks) or ""):
        pytest.skip("this version does not look")

    async def main():
        with pytest.raises(ValueError, match=r"Invalid delay: NaN \(not a number\)"):
            await aio.sleep(math.nan)

    run(main())


def test_sleep_without_a_loop(aio):
    sleeping = aio.sleep(1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        sleeping.send(None)


def test_zero_sleeps_give_way_once(aio, run):
    async def main():
        order = []

        async def each(number):
            for step in range(3):
                order.append((step, number))
                await aio.sleep(0)

        await aio.gather(*(each(number) for number in range(3)))
        return order

    assert run(main()) == [(step, number) for step in range(3) for number in range(3)]
