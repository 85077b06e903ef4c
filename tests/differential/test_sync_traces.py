"""Cancelled programs that use synchronization primitives leave the same trace as on stock asyncio.

Cancellation is injected at every await point: each task of each program is cancelled at each turn
of the loop, and two tasks in one turn, right before and right after a wake-up. The end of each
program checks that no item, permit or wake-up was lost. Random programs do the rest.
"""

import asyncio
import gc
import random
import weakref
from collections import Counter
from itertools import count, product

import pytest

#: More turns than any of the programs takes.
TURNS = 12


class Program:
    """Tasks that record what happens to them, and a driver that cancels them."""

    def __init__(self, aio):
        self.aio = aio
        self.trace = []
        self.tasks = []

    def note(self, *what):
        self.trace.append(what)

    def start(self, name, function, *args):
        async def body():
            self.note(name, "begins")
            try:
                result = await function(*args)
            except asyncio.CancelledError as error:
                self.note(name, "cancelled", *error.args)
                raise
            except Exception as error:
                self.note(name, "raised", type(error).__name__, str(error))
            else:
                self.note(name, "returned", result)

        self.tasks.append(self.aio.create_task(body()))

    async def drive(self, cancellations, turns=TURNS):
        """`cancellations`: (turn, number of the task, whether it comes last in that turn)."""
        for turn in range(turns):
            for when, number, _ in filter(lambda each: not each[2], cancellations):
                if when == turn and number < len(self.tasks):
                    self.note("cancel", number, self.tasks[number].cancel(f"in turn {turn}"))
            self.act(turn)
            for when, number, _ in filter(lambda each: each[2], cancellations):
                if when == turn and number < len(self.tasks):
                    self.note("cancel", number, self.tasks[number].cancel(f"in turn {turn}"))
            await self.aio.sleep(0)
            self.note("turn", turn, *self.look())
        for _ in range(2 * TURNS):
            for task in self.tasks:
                task.cancel("at the end")
            await self.aio.sleep(0)
        assert all(task.done() for task in self.tasks)
        self.note("end", *self.look())
        self.check()
        return self.trace

    def act(self, turn):
        """Do what the driver does in a turn."""

    def look(self):
        """Return the observable state of the primitive between turns."""
        return ()

    def check(self):
        """Check what must hold when all tasks are done."""


class Locks(Program):
    def __init__(self, aio):
        super().__init__(aio)
        self.lock = aio.Lock()
        for number in range(3):
            self.start(number, self.hold, number)

    async def hold(self, number):
        async with self.lock:
            self.note(number, "holds it")
            await self.aio.sleep(0)
        return number

    def look(self):
        return self.lock.locked(), repr(self.lock).partition("[")[2]

    def check(self):
        assert not self.lock.locked() and not self.lock._waiters


class Semaphores(Program):
    make = "Semaphore"

    def __init__(self, aio):
        super().__init__(aio)
        self.semaphore = getattr(aio, self.make)(2)
        for number in range(5):
            self.start(number, self.hold, number)

    async def hold(self, number):
        async with self.semaphore:
            self.note(number, "has a permit")
            await self.aio.sleep(0)
        return number

    def look(self):
        return self.semaphore.locked(), repr(self.semaphore).partition("[")[2]

    def check(self):
        assert self.semaphore._value == 2 and not self.semaphore._waiters


class BoundedSemaphores(Semaphores):
    make = "BoundedSemaphore"


class Events(Program):
    def __init__(self, aio):
        super().__init__(aio)
        self.event = aio.Event()
        for number in range(3):
            self.start(number, self.event.wait)

    def act(self, turn):
        if turn == 3:
            self.event.set()
        if turn == 4:
            self.event.clear()
            self.start(3, self.event.wait)
        if turn == 7:
            self.event.set()
            self.event.clear()

    def look(self):
        return (repr(self.event).partition("[")[2],)

    def check(self):
        assert not self.event._waiters


class Conditions(Program):
    def __init__(self, aio):
        super().__init__(aio)
        self.condition = aio.Condition()
        self.ready = 0
        for number in range(3):
            self.start(number, self.take, number)
        self.start("giver", self.give)

    async def take(self, number):
        async with self.condition:
            try:
                while not self.ready:
                    await self.condition.wait()
                self.ready -= 1
            finally:
                self.note(number, "has the lock", self.condition.locked())
            self.condition.notify()
        return number

    async def give(self):
        for _ in range(3):
            async with self.condition:
                await self.aio.sleep(0)
                self.ready += 1
                self.condition.notify()

    def look(self):
        return self.ready, repr(self.condition).partition("[")[2]

    def check(self):
        assert not self.condition.locked() and not self.condition._waiters


class Predicates(Conditions):
    async def take(self, number):
        async with self.condition:
            await self.condition.wait_for(lambda: self.ready)
            self.ready -= 1
            self.condition.notify()
        return number


class Barriers(Program):
    def __init__(self, aio):
        super().__init__(aio)
        self.barrier = aio.Barrier(2)
        for number in range(4):
            self.start(number, self.barrier.wait)

    def act(self, turn):
        if turn == 5:
            self.start("reset", self.barrier.reset)
            self.start("late", self.barrier.wait)
        if turn == 8:
            self.start("abort", self.barrier.abort)

    def look(self):
        barrier = self.barrier
        return barrier.n_waiting, barrier.broken, repr(barrier).partition("[")[2]

    def check(self):
        assert self.barrier._count == 0 and not self.barrier._cond.locked()


class Queues(Program):
    make = "Queue"

    def __init__(self, aio):
        super().__init__(aio)
        self.queue = getattr(aio, self.make)(1)
        self.put, self.got = [], []
        self.start("get 0", self.get, 0, 2)
        self.start("put 0", self.produce, 0)
        self.start("put 1", self.produce, 1)
        self.start("get 1", self.get, 1, 3)
        self.start("join", self.queue.join)

    async def produce(self, number):
        for item in (number * 10, number * 10 + 1, number * 10 + 2):
            await self.queue.put(item)
            self.put.append(item)

    async def get(self, number, items):
        for _ in range(items):
            item = await self.queue.get()
            self.got.append(item)
            self.note(number, "got", item)
            self.queue.task_done()

    def look(self):
        return (str(self.queue),)

    def check(self):
        left = [self.queue.get_nowait() for _ in range(self.queue.qsize())]
        assert sorted(self.put) == sorted(self.got + left)
        assert not self.queue._getters and not self.queue._putters


class PriorityQueues(Queues):
    make = "PriorityQueue"


class LifoQueues(Queues):
    make = "LifoQueue"


class ShutDownQueues(Queues):
    def act(self, turn):
        if turn == 4:
            self.queue.shutdown()

    def check(self):
        assert not self.queue._getters and not self.queue._putters


class Sleeps(Program):
    def __init__(self, aio):
        super().__init__(aio)
        self.start(0, self.sleep, 3)
        self.start(1, self.sleep, 5)
        self.start(2, aio.sleep, 60)

    async def sleep(self, turns):
        for turn in range(turns):
            assert await self.aio.sleep(0, turn) == turn
        return turns


PROGRAMS = [
    Locks,
    Semaphores,
    BoundedSemaphores,
    Events,
    Conditions,
    Predicates,
    Barriers,
    Queues,
    PriorityQueues,
    LifoQueues,
    Sleeps,
]
if hasattr(asyncio, "QueueShutDown"):
    PROGRAMS.append(ShutDownQueues)


def on_stock(main):
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(main())


def all_traces(aio, program, injections):
    async def main():
        return [await program(aio).drive(cancellations) for cancellations in injections]

    return main


@pytest.mark.one_mode
@pytest.mark.parametrize("program", PROGRAMS)
def test_one_cancellation(aio, impl, run, program):
    injections = [[each] for each in product(range(TURNS), range(6), (False, True))]
    expected = on_stock(all_traces(asyncio, program, injections))
    assert run(all_traces(aio, program, injections)()) == expected


@pytest.mark.one_mode
@pytest.mark.parametrize("program", PROGRAMS)
def test_two_cancellations(aio, run, program):
    single = list(product(range(1, TURNS), range(5), (False, True)))
    chosen = random.Random(program.__name__)
    injections = [sorted(chosen.sample(single, 2)) for _ in range(400)]
    expected = on_stock(all_traces(asyncio, program, injections))
    assert run(all_traces(aio, program, injections)()) == expected


@pytest.mark.one_mode
@pytest.mark.parametrize("program", PROGRAMS)
def test_without_cancellation_in_debug_mode(aio, program):
    expected = on_stock(all_traces(asyncio, program, [[]]))
    factory = None if aio is asyncio else aio.new_event_loop
    with aio.Runner(debug=True, loop_factory=factory) as runner:
        runner.get_loop().slow_callback_duration = 60
        assert runner.run(all_traces(aio, program, [[]])()) == expected


@pytest.mark.parametrize("program", PROGRAMS)
def test_on_a_loop_of_asyncio(aio, program):
    """The primitives, and sleep, work on any loop."""
    injections = [[each] for each in product(range(TURNS), range(6), (False, True))]
    expected = on_stock(all_traces(asyncio, program, injections))
    assert on_stock(all_traces(aio, program, injections)) == expected


@pytest.mark.one_mode
@pytest.mark.parametrize("program", [*PROGRAMS, "random"])
def test_nothing_is_left(aio, run, program):
    """Cancellations leak no objects, and no item is still referenced."""
    if program == "random":
        programs = [lambda aio, seed=seed: Random(aio, seed) for seed in range(60)]
        rounds = [(each, []) for each in programs]
    else:
        rounds = [(program, [each]) for each in product(range(TURNS), range(6), (False, True))]

    async def once():
        for make, cancellations in rounds:
            await make(aio).drive(cancellations)

    def alive():
        gc.collect()
        names = ("asyncio", "_asyncio", "rondel")
        types = map(type, gc.get_objects())
        return Counter(each for each in types if each.__module__.partition(".")[0] in names)

    async def main():
        await once()
        before = alive()
        await once()
        return alive() - before

    assert not run(main())


def test_items_are_released(aio, run):
    class Item:
        def __lt__(self, other):
            return False

    async def main():
        for make in (aio.Queue, aio.LifoQueue, aio.PriorityQueue):
            item, queue = Item(), make(2)
            gone = weakref.ref(item)
            for _ in range(3):
                await queue.put(item)
                assert await queue.get() is item
            await queue.put(item)
            await queue.put(item)
            waiting = aio.create_task(queue.put(item))
            await aio.sleep(0)
            waiting.cancel()
            await aio.wait([waiting])
            del item, waiting
            assert gone() is not None
            queue.get_nowait()
            assert gone() is not None
            queue.get_nowait()
            gc.collect()
            assert gone() is None
        result = Item()
        gone = weakref.ref(result)
        assert await aio.sleep(0, result) is result
        assert await aio.sleep(0.001, result) is result
        del result
        await aio.sleep(0)  # asyncio's loop references the handle that it runs
        gc.collect()
        assert gone() is None

    run(main())


# ---- random programs ----


class Random(Program):
    """Each task performs random operations on shared primitives, and is cancelled at random."""

    def __init__(self, aio, seed):
        super().__init__(aio)
        self.random = random.Random(seed)
        self.lock, self.event, self.semaphore = aio.Lock(), aio.Event(), aio.Semaphore(2)
        self.condition, self.queue, self.barrier = aio.Condition(), aio.Queue(2), aio.Barrier(2)
        self.items = count()
        for number in range(self.random.randrange(3, 8)):
            steps = [self.random.choice(STEPS) for _ in range(self.random.randrange(1, 6))]
            self.start(number, self.live, number, steps, self.random.random() < 0.3)

    async def live(self, number, steps, stubborn):
        for step in steps:
            try:
                self.note(number, step.__name__, await step(self))
            except asyncio.CancelledError as error:
                self.note(number, step.__name__, "cancelled", *error.args)
                if not stubborn:
                    raise
                stubborn = False
            except Exception as error:
                self.note(number, step.__name__, type(error).__name__, str(error))

    def act(self, turn):
        for _ in range(self.random.randrange(3)):
            number = self.random.randrange(len(self.tasks))
            if self.random.random() < 0.2:
                self.note("cancel", number, self.tasks[number].cancel(f"in turn {turn}"))
        if self.random.random() < 0.2:
            self.event.set()
        if self.random.random() < 0.2:
            self.event.clear()

    def look(self):
        all_ = (self.lock, self.event, self.semaphore, self.condition, self.barrier)
        return *(repr(each).partition("[")[2] for each in all_), str(self.queue)

    def check(self):
        assert not self.lock.locked() and not self.condition.locked()
        assert self.semaphore._value == 2

    async def use_lock(self):
        async with self.lock:
            await self.aio.sleep(0)

    async def use_semaphore(self):
        async with self.semaphore:
            await self.aio.sleep(0)

    async def wait_for_event(self):
        return await self.event.wait()

    async def wait_for_condition(self):
        async with self.condition:
            return await self.condition.wait()

    async def notify(self):
        async with self.condition:
            self.condition.notify(2)

    async def put(self):
        await self.queue.put(next(self.items))

    async def get(self):
        item = await self.queue.get()
        self.queue.task_done()
        return item

    async def join(self):
        await self.queue.join()

    async def meet(self):
        return await self.barrier.wait()

    async def reset(self):
        await self.barrier.reset()

    async def pause(self):
        await self.aio.sleep(0)


STEPS = [
    Random.use_lock,
    Random.use_semaphore,
    Random.wait_for_event,
    Random.wait_for_condition,
    Random.notify,
    Random.put,
    Random.get,
    Random.join,
    Random.meet,
    Random.reset,
    Random.pause,
]


@pytest.mark.one_mode
def test_random_programs(aio, run):
    def traces(aio):
        async def main():
            return [await Random(aio, seed).drive([], turns=25) for seed in range(300)]

        return main

    for seed, (ours, expected) in enumerate(zip(run(traces(aio)()), on_stock(traces(asyncio)), strict=True)):
        assert ours == expected, f"seed {seed}"
