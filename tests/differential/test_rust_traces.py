"""Random programs leave the same trace on asyncio as, translated, in the Rust face.

A program is words, which `crates/rondel/examples/trace.rs` runs (`make test-traces` builds it):
tasks with locks, semaphores, queues, events, timeouts, and cancellations of each other. Here they
are made up, and run on asyncio with a virtual clock. Each event is noted with its time, and the
order within one moment counts as well.

Two things are not compared. Timers that are due at the same moment: asyncio leaves their order open, so each duration is another
one. And a condition whose waiter is cancelled: a Rust future that is dropped has no lock to take again, so programs with
conditions and barriers have no cancellations.
"""

import asyncio
import random
import subprocess
import sys

import pytest
from clocks import START, JumpingLoop

#: In seconds. Much later, and the time as a float is not exact enough for asyncio to find its timer
#: due.
END = 1_000_000
PROGRAMS = 400

pytestmark = pytest.mark.skipif(sys.version_info < (3, 13), reason="queues can be shut down from 3.13 on")


class Maker:
    """Makes a program up."""

    def __init__(self, seed, cancels):
        self.random = random.Random(seed)
        self.cancels = cancels
        self.tasks = self.random.randint(2, 6)
        self.durations = set()

    def duration(self):
        while (duration := self.random.randint(1, 100_000)) in self.durations:
            pass
        self.durations.add(duration)
        return str(duration)

    def program(self):
        pick = self.random.randint
        queues = [str(pick(0, 2)) for _ in range(2)]
        words = ["locks", "2", "events", "2", "conditions", "1", "semaphores", "2", "1", "2", "queues", "2", *queues]
        words += ["barriers", "1", str(pick(1, 3)), "roots", str(pick(1, self.tasks))]
        for _ in range(self.tasks):
            words += ["task", *self.block(0)]
        return words

    def block(self, depth):
        words = ["{"]
        for _ in range(self.random.randint(1, 6 if depth == 0 else 3)):
            words += self.operation(depth)
        return [*words, "}"]

    def operation(self, depth):
        pick = self.random.choice
        kinds = ["yield", "yield", "sleep", "put", "get", "put", "get", "done", "join", "set", "clear", "wait", "spawn"]
        if depth < 3:
            kinds += ["lock", "lock", "semaphore", "semaphore"]
            kinds += ["timeout", "timeout"] if self.cancels else []
        kinds += ["cancel"] * 3 if self.cancels else ["notified", "notify", "barrier"]
        if self.random.random() < 0.05:
            kinds = ["shutdown"]
        kind = pick(kinds)
        which = pick("01")
        match kind:
            case "yield":
                return [kind]
            case "sleep":
                return [kind, self.duration()]
            case "timeout":
                return [kind, self.duration(), *self.block(depth + 1)]
            case "lock" | "semaphore":
                return [kind, which, *self.block(depth + 1)]
            case "put":
                return [kind, which, str(self.random.randint(0, 99))]
            case "shutdown":
                return [kind, which, pick("01")]
            case "spawn" | "cancel":
                return [kind, str(self.random.randrange(self.tasks))]
            case "notify":
                return [kind, "0", str(self.random.randint(1, 3))]
            case "notified" | "barrier":
                return [kind, "0"]
        return [kind, which]


class World:
    """A program, run on asyncio."""

    def __init__(self, words):
        self.words = iter(words)
        self.programs, self.trace, self.over = [], [], False
        for word in self.words:
            match word:
                case "task":
                    assert next(self.words) == "{"
                    self.programs.append(self.block())
                case "roots":
                    self.roots = self.number()
                case "locks" | "events" | "conditions":
                    make = {"locks": asyncio.Lock, "events": asyncio.Event, "conditions": asyncio.Condition}[word]
                    setattr(self, word, [make() for _ in range(self.number())])
                case _:
                    make = {"semaphores": asyncio.Semaphore, "queues": asyncio.Queue, "barriers": asyncio.Barrier}[word]
                    sizes = [self.number() for _ in range(self.number())]
                    setattr(self, word, [make(size) for size in sizes])
        self.tasks = [None] * len(self.programs)

    def number(self):
        return int(next(self.words))

    def block(self):
        operations = []
        counts = {"yield": 0, "put": 2, "shutdown": 2, "notify": 2}
        while (word := next(self.words)) != "}":
            numbers = [self.number() for _ in range(counts.get(word, 1))]
            inner = None
            if word in ("lock", "semaphore", "timeout"):
                assert next(self.words) == "{"
                inner = self.block()
            operations.append((word, numbers, inner))
        return operations

    def note(self, task, what):
        if not self.over:
            time = round((asyncio.get_running_loop().time() - START) * 1000)
            self.trace.append(f"{time} {task} {what}")

    def spawn(self, task):
        async def body():
            async def all_of_it():
                await self.run(task, self.programs[task])
                return "ends"

            await self.begun(task, "task", all_of_it())

        if self.tasks[task] is None:
            self.tasks[task] = asyncio.create_task(body())

    async def begun(self, task, name, operation):
        self.note(task, f"{name} begins")
        try:
            how = await operation
        except asyncio.CancelledError:
            self.note(task, f"{name} is cancelled")
            raise
        except (asyncio.QueueShutDown, asyncio.BrokenBarrierError) as error:
            how = type(error).__name__
        self.note(task, f"{name} {how}")

    async def run(self, task, operations):
        for operation in operations:
            await self.step(task, *operation)

    async def step(self, task, name, numbers, inner):
        which = numbers[0] if numbers else None
        match name:
            case "yield":
                await asyncio.sleep(0)
            case "done":
                try:
                    self.queues[which].task_done()
                except ValueError:
                    self.note(task, "done too often")
                else:
                    self.note(task, "done")
            case "shutdown":
                self.queues[which].shutdown(numbers[1] == 1)
            case "set":
                self.events[which].set()
            case "clear":
                self.events[which].clear()
            case "spawn":
                self.spawn(which)
            case "cancel":
                other = self.tasks[which]
                cancelled = other is not None and other.cancel()
                self.note(task, "cancels" if cancelled else "can't cancel")
            case _:
                await self.begun(task, name, getattr(self, f"do_{name}")(task, numbers, inner))

    async def do_sleep(self, task, numbers, inner):
        await asyncio.sleep(numbers[0] / 1000)
        return "ends"

    async def do_lock(self, task, numbers, inner):
        async with self.locks[numbers[0]]:
            self.note(task, "locked")
            await self.run(task, inner)
        return "ends"

    async def do_semaphore(self, task, numbers, inner):
        async with self.semaphores[numbers[0]]:
            self.note(task, "acquired")
            await self.run(task, inner)
        return "ends"

    async def do_timeout(self, task, numbers, inner):
        try:
            async with asyncio.timeout(numbers[0] / 1000):
                await self.run(task, inner)
        except TimeoutError:
            return "is over"
        return "ends"

    async def do_put(self, task, numbers, inner):
        await self.queues[numbers[0]].put(numbers[1])
        return "ends"

    async def do_get(self, task, numbers, inner):
        return str(await self.queues[numbers[0]].get())

    async def do_join(self, task, numbers, inner):
        await self.queues[numbers[0]].join()
        return "ends"

    async def do_wait(self, task, numbers, inner):
        await self.events[numbers[0]].wait()
        return "ends"

    async def do_notified(self, task, numbers, inner):
        async with self.conditions[numbers[0]] as _:
            await self.conditions[numbers[0]].wait()
        return "ends"

    async def do_notify(self, task, numbers, inner):
        async with self.conditions[numbers[0]]:
            self.conditions[numbers[0]].notify(numbers[1])
        return "ends"

    async def do_barrier(self, task, numbers, inner):
        return str(await self.barriers[numbers[0]].wait())


def on_asyncio(words):
    async def main():
        world = World(words)
        for task in range(world.roots):
            world.spawn(task)
        await asyncio.sleep(END)
        world.over = True
        return world.trace

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main())


@pytest.fixture
def interpreter(request):
    path = request.config.getoption("--rust-trace")
    if not path:
        pytest.skip("make test-traces builds the program that this needs")
    return path


@pytest.mark.parametrize("cancels", [False, True], ids=["calm", "cancelling"])
def test_random_programs_leave_the_same_trace_in_rust(interpreter, cancels):
    seed = random.randrange(2**32)
    programs = [Maker(seed + number, cancels).program() for number in range(PROGRAMS)]
    given = "".join(" ".join(words) + "\n" for words in programs)
    ran = subprocess.run([interpreter], input=given, capture_output=True, text=True, check=True)
    traces = [line.split("|") if line else [] for line in ran.stdout.split("\n")[:-1]]
    assert len(traces) == len(programs)
    events = 0
    for number, (words, trace) in enumerate(zip(programs, traces, strict=True)):
        expected = on_asyncio(words)
        events += len(expected)
        assert trace == expected, f"seed {seed + number}, cancels {cancels}: {' '.join(words)}"
    assert events > 10 * PROGRAMS, "the programs do next to nothing"
