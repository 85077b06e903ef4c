"""Native objects traverse all references: each cycle is collected, each reference is counted once.

Each case creates an object that references a marker. `gc.get_referents` must return the marker, or
the object that references it. A cycle through that reference must be collected. The marker's
reference count must return to its old value, also with many objects from a freelist.
"""

import asyncio
import contextlib
import contextvars
import gc
import sys
import weakref

import pytest

ROUNDS = 300


class Marker:
    """An object that others reference."""

    def __call__(self, *args):
        """A marker can be a callback."""

    def __lt__(self, other):
        return False


@contextlib.contextmanager
def no_collection():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def reaches(start, goal, limit=4000):
    """Whether the collector can reach one object from another, by `tp_traverse` of natives."""
    seen, queue = {id(start)}, [start]
    while queue and len(seen) < limit:
        for each in gc.get_referents(queue.pop(0)):
            if each is goal:
                return True
            if (
                id(each) not in seen
                and not isinstance(each, type)
                and type(each).__name__ not in ("module", "function")
            ):
                seen.add(id(each))
                queue.append(each)
    return False


# ---- references to a marker ----


def future_result(aio, loop, marker):
    future = aio.Future(loop=loop)
    future.set_result(marker)
    return future


def future_exception(aio, loop, marker):
    future = aio.Future(loop=loop)
    future.set_exception(ValueError(marker))
    future.exception()
    return future


def future_callback(aio, loop, marker):
    future = aio.Future(loop=loop)
    future.add_done_callback(marker)
    return future


def future_callbacks(aio, loop, marker):
    future = aio.Future(loop=loop)
    future.add_done_callback(print)
    future.add_done_callback(marker)
    return future


def future_context(aio, loop, marker):
    future = aio.Future(loop=loop)
    context = contextvars.Context()
    context.run(VARIABLE.set, marker)
    future.add_done_callback(print, context=context)
    future.add_done_callback(print, context=context)
    return future


def future_cancel_message(aio, loop, marker):
    future = aio.Future(loop=loop)
    future.cancel(marker)
    return future


def future_attribute(aio, loop, marker):
    future = aio.Future(loop=loop)
    assert not hasattr(future, "note")  # its memory may have belonged to another task
    future.note = marker
    return future


def future_many_attributes(aio, loop, marker):
    """More attributes than the interpreter stores inline in an object."""
    future = aio.Future(loop=loop)
    for number in range(40):
        setattr(future, f"note{number}", marker)
    return future


def task_attribute(aio, loop, marker):
    task = start(aio, loop, waits_for(loop.create_future()))
    assert not hasattr(task, "note")
    task.note = marker
    return task


def future_subclass(aio, loop, marker):
    class Subclass(aio.Future):
        pass

    future = Subclass(loop=loop)
    future.note = marker
    return future


def future_subclass_result(aio, loop, marker):
    class Subclass(aio.Future):
        __slots__ = ("slot",)

    future = Subclass(loop=loop)
    future.slot = future_result(aio, loop, marker)
    return future


VARIABLE = contextvars.ContextVar("VARIABLE")


async def waits_for(future, marker=None):
    await future


def start(aio, loop, coroutine, **kwargs):
    task = aio.Task(coroutine, loop=loop, **kwargs)
    task._log_destroy_pending = False
    loop.call_soon(loop.stop)
    loop.run_forever()
    return task


def task_coroutine(aio, loop, marker):
    return start(aio, loop, waits_for(aio.Future(loop=loop), marker))


def task_result(aio, loop, marker):
    async def returns():
        return marker

    return start(aio, loop, returns())


def task_context(aio, loop, marker):
    context = contextvars.Context()
    context.run(VARIABLE.set, marker)
    return start(aio, loop, waits_for(aio.Future(loop=loop)), context=context)


def task_awaits(aio, loop, marker):
    return start(aio, loop, waits_for(future_callbacks(aio, loop, marker)))


def task_subclass(aio, loop, marker):
    class Subclass(aio.Task):
        pass

    task = Subclass(waits_for(aio.Future(loop=loop)), loop=loop)
    task._log_destroy_pending = False
    loop.call_soon(loop.stop)
    loop.run_forever()
    task.note = marker
    return task


def future_waited_for_by_task(aio, loop, marker):
    future = aio.Future(loop=loop)
    start(aio, loop, waits_for(future, marker))
    return future


def handle_callback(aio, loop, marker):
    return loop.call_later(1000, marker)


def handle_arguments(aio, loop, marker):
    return loop.call_later(1000, print, 1, 2, 3, 4, marker)


def handle_context(aio, loop, marker):
    context = contextvars.Context()
    context.run(VARIABLE.set, marker)
    return loop.call_later(1000, print, context=context)


def lock_waiter(aio, loop, marker):
    lock = aio.Lock()
    start(aio, loop, lock.acquire())
    start(aio, loop, holds(lock, marker))
    return lock


async def holds(context, marker):
    async with context:
        await asyncio.get_running_loop().create_future()


def waiting_with(make, wait):
    def case(aio, loop, marker):
        primitive = make(aio)

        async def waits(primitive, marker):
            await wait(primitive)

        start(aio, loop, waits(primitive, marker))
        return primitive

    return case


def attribute_of(make):
    def case(aio, loop, marker):
        primitive = make(aio)
        primitive.note = marker
        return primitive

    return case


def subclass_of(name, *args):
    def case(aio, loop, marker):
        class Subclass(getattr(aio, name)):
            pass

        primitive = Subclass(*args)
        primitive.note = marker
        return primitive

    return case


async def wait_for_condition(condition):
    async with condition:
        await condition.wait()


def queue_items(name):
    def case(aio, loop, marker):
        queue = getattr(aio, name)()
        queue.put_nowait(marker)
        return queue

    return case


def queue_putter(aio, loop, marker):
    queue = aio.Queue(1)
    queue.put_nowait(0)
    start(aio, loop, queue.put(marker))
    return queue


def gather_child(aio, loop, marker):
    async def gathers():
        return aio.gather(waits_for(aio.Future(), marker), waits_for(aio.Future()))

    gathering = loop.run_until_complete(gathers())
    loop.call_soon(loop.stop)
    loop.run_forever()
    for child in gathering._children:
        child._log_destroy_pending = False
    return gathering


async def wait_in_timeout(timeout):
    async with timeout:
        await asyncio.get_running_loop().create_future()


def task_group_child(aio, loop, marker):
    """A group and its task reference each other."""
    group = aio.TaskGroup()

    async def child():
        group.note = marker
        await loop.create_future()

    async def begin():
        await group.__aenter__()
        task = group.create_task(child())
        task._log_destroy_pending = False
        await asyncio.sleep(0)

    loop.run_until_complete(begin())
    return group


def task_group_error(aio, loop, marker):
    """A group keeps the exceptions of its tasks until it ends."""
    group = aio.TaskGroup()

    async def fail():
        raise ValueError(marker)

    async def begin():
        await group.__aenter__()
        group.create_task(fail())
        try:
            await loop.create_future()
        except asyncio.CancelledError:  # like the group
            asyncio.current_task().uncancel()

    loop.run_until_complete(begin())
    assert group._errors
    return group


def suspended(make):
    """Return an awaitable on which `send` was called once."""

    def case(aio, loop, marker):
        async def begins():
            awaitable = make(aio, marker)
            keep = awaitable.send(None)
            return awaitable, keep

        return loop.run_until_complete(begins())[0]

    return case


def full_queue(aio):
    queue = aio.Queue(1)
    queue.put_nowait(0)
    return queue


def locked(aio, marker):
    lock = aio.Lock()
    lock.note = marker
    lock._locked = True
    return lock.acquire()


def noted(primitive, marker):
    primitive.note = marker
    return primitive


CASES = {
    **{
        case.__name__: case
        for case in (
            future_result,
            future_exception,
            future_callback,
            future_callbacks,
            future_context,
            future_cancel_message,
            future_attribute,
            future_many_attributes,
            future_subclass,
            future_subclass_result,
            future_waited_for_by_task,
            task_coroutine,
            task_result,
            task_context,
            task_awaits,
            task_attribute,
            task_subclass,
            lock_waiter,
            queue_putter,
            gather_child,
            task_group_child,
            task_group_error,
        )
    },
    "timeout_entered": waiting_with(lambda aio: aio.Timeout(1e9), wait_in_timeout),
    "event_waiter": waiting_with(lambda aio: aio.Event(), lambda event: event.wait()),
    "condition_waiter": waiting_with(lambda aio: aio.Condition(), wait_for_condition),
    "semaphore_waiter": waiting_with(lambda aio: aio.Semaphore(0), lambda semaphore: semaphore.acquire()),
    "bounded_semaphore_waiter": waiting_with(
        lambda aio: aio.BoundedSemaphore(0), lambda semaphore: semaphore.acquire()
    ),
    "barrier_waiter": waiting_with(lambda aio: aio.Barrier(3), lambda barrier: barrier.wait()),
    "queue_getter": waiting_with(lambda aio: aio.Queue(), lambda queue: queue.get()),
    "queue_putter_in_body": waiting_with(full_queue, lambda queue: queue.put(1)),
    "queue_joiner": waiting_with(full_queue, lambda queue: queue.join()),
    "queue_items": queue_items("Queue"),
    "lifo_queue_items": queue_items("LifoQueue"),
    "priority_queue_items": queue_items("PriorityQueue"),
    "condition_lock": lambda aio, loop, marker: aio.Condition(noted(aio.Lock(), marker)),
    **{
        f"{name}_attribute": attribute_of(lambda aio, name=name, args=args: getattr(aio, name)(*args))
        for name, *args in (
            ("Lock",),
            ("Event",),
            ("Condition",),
            ("Semaphore",),
            ("BoundedSemaphore",),
            ("Barrier", 2),
            ("Queue",),
            ("LifoQueue",),
            ("PriorityQueue",),
            ("Timeout", None),
            ("TaskGroup",),
        )
    },
    **{
        f"{name}_subclass": subclass_of(name, *args)
        for name, *args in (
            ("Lock",),
            ("Event",),
            ("Condition",),
            ("Semaphore",),
            ("BoundedSemaphore",),
            ("Barrier", 2),
            ("Queue",),
            ("LifoQueue",),
            ("PriorityQueue",),
            ("Timeout", None),
            ("TaskGroup",),
        )
    },
    "sleep_suspended": suspended(lambda aio, marker: aio.sleep(1000, marker)),
    "turn_suspended": suspended(lambda aio, marker: aio.sleep(0, marker)),
    "put_suspended": suspended(lambda aio, marker: full_queue(aio).put(marker)),
    "get_suspended": suspended(lambda aio, marker: noted(aio.Queue(), marker).get()),
    "acquire_suspended": suspended(locked),
    "wait_suspended": suspended(lambda aio, marker: noted(aio.Event(), marker).wait()),
    "permit_suspended": suspended(lambda aio, marker: noted(aio.Semaphore(0), marker).acquire()),
    "barrier_suspended": suspended(lambda aio, marker: noted(aio.Barrier(2), marker).wait()),
    "join_suspended": suspended(lambda aio, marker: noted(full_queue(aio), marker).join()),
}
#: The loop references its handles, so a cycle through them lives as long as the loop.
HANDLES = {case.__name__: case for case in (handle_callback, handle_arguments, handle_context)}


@pytest.fixture(autouse=True)
def _collected_before_the_loop_is_closed(loop):
    yield
    settle(loop)


def settle(loop):
    """The loop drops the last handle it ran, and its timers: unreachable objects are collected."""
    for _ in range(2):
        loop.call_soon(loop.stop)
        loop.run_forever()
        for timer in list(getattr(loop, "_scheduled", ())):
            timer.cancel()
    gc.collect()
    gc.collect()


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.mark.one_mode
@pytest.mark.parametrize("name", [*CASES, *HANDLES])
def test_the_collector_is_shown_what_is_held(aio, loop, name):
    marker = Marker()
    holder = {**CASES, **HANDLES}[name](aio, loop, marker)
    assert reaches(holder, marker)


@pytest.mark.one_mode
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_a_cycle_is_collected(aio, loop, case, problems):
    with no_collection():
        marker = Marker()
        gone = weakref.ref(marker)
        marker.holder = case(aio, loop, marker)
        del marker
        settle(loop)
        assert gone() is None


@pytest.mark.one_mode
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_references_are_counted_exactly(aio, loop, case, problems):
    marker = Marker()
    with no_collection():
        for _ in range(20):  # objects that are created once
            case(aio, loop, marker)
    settle(loop)
    before = sys.getrefcount(marker)
    for _ in range(ROUNDS):
        case(aio, loop, marker)
    settle(loop)
    assert sys.getrefcount(marker) - before == 0


@pytest.mark.one_mode
def test_freelists_hold_nothing(aio, loop, case, problems):
    """More objects than a freelist keeps, all alive at once and then dropped."""
    marker = Marker()
    gone = weakref.ref(marker)
    held = [case(aio, loop, marker) for _ in range(20)]
    del held, marker
    settle(loop)
    assert gone() is None


@pytest.mark.one_mode
def test_tasks_that_are_garbage_leave_no_broken_contexts(aio, run):
    """A later task may reuse a task's context, unless the collector clears it with the task."""
    variable = contextvars.ContextVar("variable")

    async def give(value):
        return value

    async def look():
        return variable.get(), contextvars.copy_context()[variable]

    async def main():
        variable.set("set")
        for _ in range(10):
            box = []
            box.append(aio.create_task(give(box)))
            await box[0]
            del box
            gc.collect()
            assert await aio.gather(*[look() for _ in range(3)]) == [("set", "set")] * 3

    with no_collection():
        run(main())
