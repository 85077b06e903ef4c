"""The cases that need no socket: `python in_process.py --loop NAME --form FORM --case CASE --seconds S`.

A case is one coroutine function that gets the module to call `asyncio` and a number of operations, does exactly that
many (rounded up to whole batches), proves it, and returns how many it did. The driver finds out how many fill the time
wanted, runs that many and prints the CPU time they took as a line of JSON.
"""

import argparse
import gc
import json
import math
import resource
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import transfers
from binding import bind

Case = Callable[[Any, int], Awaitable[int]]
CASES: dict[str, Case] = {}

#: Timers pending at the same time in the timer cases.
TIMERS = 5_000
#: Tasks that are alive at the same time in the task cases.
TASKS = 100


def case(function: Case) -> Case:
    """Registers a case under its function's name."""
    CASES[function.__name__.replace("_", "-")] = function
    return function


def check(condition: bool, message: str) -> None:
    """Fails the measurement: a figure for work that was not done is worse than none."""
    if not condition:
        raise RuntimeError(message)


@case
async def call_soon(asyncio: Any, count: int) -> int:
    """A chain of callbacks, each scheduling the next."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done
    check(left == 0, f"{left} of {count} callbacks did not run")
    return count


@case
async def timer_cancelled(asyncio: Any, count: int) -> int:
    """Timers set and cancelled before they are due, as timeouts mostly are."""
    loop = asyncio.get_running_loop()
    fired: list[int] = []
    batches = math.ceil(count / TIMERS)
    for _ in range(batches):
        for number in range(TIMERS):
            handle = loop.call_later(10, fired.append, number)
            handle.cancel()
        check(handle.cancelled(), "a cancelled timer does not say so")
        # A turn, so that whoever puts cancelled timers away later does it within the measured time.
        await asyncio.sleep(0)
    check(not fired, "a cancelled timer fired")
    return batches * TIMERS


@case
async def timer_fired(asyncio: Any, count: int) -> int:
    """Timers due within 1 to 10 ms, set in no order; each has to fire, once."""
    loop = asyncio.get_running_loop()
    batches = math.ceil(count / TIMERS)
    delays = [(1 + number * 7 % 10) / 1000 for number in range(TIMERS)]
    for _ in range(batches):
        fired = bytearray(TIMERS)
        left = TIMERS
        done = loop.create_future()

        def fire(number: int) -> None:
            nonlocal left
            fired[number] += 1  # noqa: B023 - the batch is over before the next one rebinds it
            left -= 1
            if not left:
                done.set_result(None)  # noqa: B023

        for number, delay in enumerate(delays):
            loop.call_later(delay, fire, number)
        await done
        check(fired.count(1) == TIMERS, "not every timer fired exactly once")
    return batches * TIMERS


@case
async def timeout(asyncio: Any, count: int) -> int:
    """`async with timeout(10)` around what is done at once; an operation is one block."""
    limit = asyncio.timeout
    entered = 0
    for _ in range(count):
        async with limit(10):
            entered += 1
    check(entered == count, f"{entered} blocks entered, {count} expected")
    check(await _times_out(asyncio, limit(0.001)), "a timeout does not expire")
    return count


async def _times_out(asyncio: Any, limit: Any) -> bool:
    try:
        async with limit:
            await asyncio.sleep(1)
    except TimeoutError:
        return bool(limit.expired())
    return False


@case
async def wait_for(asyncio: Any, count: int) -> int:
    """`wait_for` of a coroutine that ends at once."""
    wait = asyncio.wait_for
    total = 0
    for number in range(count):
        total += await wait(_give(number), 10)
    check(total == sum(range(count)), "a result of wait_for is wrong")
    return count


@case
async def wait_for_turn(asyncio: Any, count: int) -> int:
    """A hundred tasks `wait_for` a coroutine that lets the loop turn once; an operation is one waiting."""
    each = math.ceil(count / TASKS)

    async def turn(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def waiter() -> int:
        wait = asyncio.wait_for
        total = 0
        for _ in range(each):
            total += await wait(turn(1), 10)
        return total

    waited = await asyncio.gather(*[waiter() for _ in range(TASKS)])
    check(sum(waited) == each * TASKS, "a result of wait_for is wrong")
    return each * TASKS


@case
async def stock_methods(asyncio: Any, count: int) -> int:
    """Methods of asyncio's futures and tasks, called on objects; an operation is a round of eight."""
    future, task = await _stock_objects(asyncio)
    for _ in range(count):
        future.done(), future.cancelled(), future.result(), future.exception()
        task.done(), task.cancelled(), task.result(), task.get_name()
    check(future.result() == task.result() == 1, "a result is wrong")
    return count


@case
async def stock_functions(asyncio: Any, count: int) -> int:
    """The same methods, called on asyncio's classes."""
    future, task = await _stock_objects(asyncio)
    of_future, of_task = asyncio.Future, asyncio.Task
    for _ in range(count):
        of_future.done(future), of_future.cancelled(future), of_future.result(future), of_future.exception(future)
        of_task.done(task), of_task.cancelled(task), of_task.result(task), of_task.get_name(task)
    check(of_future.result(future) == of_task.result(task) == 1, "a result is wrong")
    return count


async def _stock_objects(asyncio: Any) -> tuple[Any, Any]:
    """A future and a task of asyncio's own, both done, with the result 1."""
    future = asyncio.get_running_loop().create_future()
    future.set_result(1)
    task = asyncio.create_task(_give(1))
    await task
    check(type(future).__module__ == type(task).__module__ == "_asyncio", "these are not asyncio's own")
    return future, task


@case
async def sleep_0(asyncio: Any, count: int) -> int:
    """`sleep(0)` in a hundred tasks at a time; an operation is one sleep."""
    return await _sleeps(asyncio, count, TASKS)


@case
async def sleep_0_alone(asyncio: Any, count: int) -> int:
    """`sleep(0)` in one task: each sleep is a whole turn of the loop."""
    return await _sleeps(asyncio, count, 1)


async def _sleeps(asyncio: Any, count: int, tasks: int) -> int:
    sleep = asyncio.sleep
    each = math.ceil(count / tasks)
    loop = asyncio.get_running_loop()
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1

    # A few callbacks show first that a sleep gives way; in every sleep that would be measured too.
    for _ in range(10):
        loop.call_soon(turn)
        await sleep(0)
    check(turns == 10, f"10 sleeps let the loop turn {turns} times")

    async def sleeper() -> int:
        for _ in range(each):
            await sleep(0)
        return each

    slept = await asyncio.gather(*[sleeper() for _ in range(tasks)])
    check(sum(slept) == each * tasks, "not every task slept to its end")
    return each * tasks


@case
async def create_task(asyncio: Any, count: int) -> int:
    """A hundred tasks created, then each awaited; an operation is one task."""
    create = asyncio.create_task
    batches = math.ceil(count / TASKS)
    total = 0
    for _ in range(batches):
        tasks = [create(_give(number)) for number in range(TASKS)]
        for task in tasks:
            total += await task
    check(total == batches * sum(range(TASKS)), "a task's result is wrong")
    return batches * TASKS


@case
async def create_task_alone(asyncio: Any, count: int) -> int:
    """A task created and awaited, one after another: each takes whole turns of the loop."""
    create = asyncio.create_task
    total = 0
    for number in range(count):
        total += await create(_give(number))
    check(total == sum(range(count)), "a task's result is wrong")
    return count


@case
async def gather(asyncio: Any, count: int) -> int:
    """A gather of 100 coroutines; an operation is one of them."""
    together = asyncio.gather
    batches = math.ceil(count / TASKS)
    expected = list(range(TASKS))
    for _ in range(batches):
        results = await together(*[_give(number) for number in range(TASKS)])
        check(results == expected, "gather's results are wrong")
    return batches * TASKS


@case
async def taskgroup(asyncio: Any, count: int) -> int:
    """Groups of 100 tasks each; an operation is one task."""
    return await _groups(asyncio, count, TASKS)


@case
async def taskgroup_of_3(asyncio: Any, count: int) -> int:
    """Groups of three tasks each, where entering and leaving count; an operation is one task."""
    return await _groups(asyncio, count, 3)


async def _groups(asyncio: Any, count: int, each: int) -> int:
    group_of = asyncio.TaskGroup
    batches = math.ceil(count / each)
    expected = list(range(each))
    for _ in range(batches):
        async with group_of() as group:
            tasks = [group.create_task(_give(number)) for number in range(each)]
        check([task.result() for task in tasks] == expected, "a task's result is wrong")
    return batches * each


@case
async def to_thread(asyncio: Any, count: int) -> int:
    """A function that does nothing, run in a thread, one after another: CPU time of both threads."""
    in_thread = asyncio.to_thread
    total = 0
    for number in range(count):
        total += await in_thread(abs, number)
    check(total == sum(range(count)), "a thread's result is wrong")
    return count


@case
async def to_thread_10(asyncio: Any, count: int) -> int:
    """Ten functions that do nothing at a time, in threads."""
    in_thread, together = asyncio.to_thread, asyncio.gather
    batches = math.ceil(count / 10)
    for _ in range(batches):
        results = await together(*[in_thread(abs, number) for number in range(10)])
        check(results == list(range(10)), "a thread's result is wrong")
    return batches * 10


@case
async def wait(asyncio: Any, count: int) -> int:
    """A wait for 100 tasks; an operation is one of them, its creation included."""
    wait, create = asyncio.wait, asyncio.create_task
    batches = math.ceil(count / TASKS)
    total = 0
    for _ in range(batches):
        done, pending = await wait([create(_give(number)) for number in range(TASKS)])
        check(not pending, "a task is not done")
        total += sum([task.result() for task in done])
    check(total == batches * sum(range(TASKS)), "a task's result is wrong")
    return batches * TASKS


@case
async def as_completed(asyncio: Any, count: int) -> int:
    """The results of 100 coroutines as they are done; an operation is one of them."""
    as_completed = asyncio.as_completed
    batches = math.ceil(count / TASKS)
    total = 0
    for _ in range(batches):
        for result in as_completed([_give(number) for number in range(TASKS)]):
            total += await result
    check(total == batches * sum(range(TASKS)), "a result is wrong")
    return batches * TASKS


@case
async def shield(asyncio: Any, count: int) -> int:
    """A hundred shields, each of a future of its own, which then ends; an operation is one of them."""
    shield, create_future = asyncio.shield, asyncio.get_running_loop().create_future
    batches = math.ceil(count / TASKS)
    total = 0
    for _ in range(batches):
        inner = [create_future() for _ in range(TASKS)]
        outer = [shield(future) for future in inner]
        for number, future in enumerate(inner):
            future.set_result(number)
        for future in outer:
            total += await future
    check(total == batches * sum(range(TASKS)), "a result is wrong")
    return batches * TASKS


@case
async def future_ping_pong(asyncio: Any, count: int) -> int:
    """Two tasks wake each other through futures; an operation is one waking."""
    loop = asyncio.get_running_loop()
    create_future = loop.create_future
    rounds = math.ceil(count / 2)
    ball = create_future()
    wakings = 0

    async def pong() -> None:
        nonlocal ball, wakings
        for _ in range(rounds):
            back = await ball
            wakings += 1
            ball = create_future()
            back.set_result(ball)

    player = asyncio.create_task(pong())
    mine = ball
    for _ in range(rounds):
        back = create_future()
        mine.set_result(back)
        mine = await back
        wakings += 1
    await player
    check(wakings == rounds * 2, f"{wakings} wakings, {rounds * 2} expected")
    return rounds * 2


@case
async def queue(asyncio: Any, count: int) -> int:
    """A producer and a consumer with a queue of 100 between them; an operation is one put and one get."""
    items = asyncio.Queue(TASKS)
    batches = math.ceil(count / TASKS)
    batch = list(range(TASKS))

    async def produce() -> None:
        for _ in range(batches):
            for number in batch:
                await items.put(number)

    producer = asyncio.create_task(produce())
    wrong = 0
    for _ in range(batches):
        for expected in batch:
            if await items.get() != expected:
                wrong += 1
    await producer
    check(not wrong, f"{wrong} items were not those that were put, in their order")
    return batches * TASKS


@case
async def lock_free(asyncio: Any, count: int) -> int:
    """`async with` on a lock that nobody else wants."""
    lock = asyncio.Lock()
    unlocked = 0
    for _ in range(count):
        async with lock:
            if not lock.locked():
                unlocked += 1
    check(not unlocked and not lock.locked(), "the lock is not locked inside, or is so behind it")
    return count


@case
async def lock_contended(asyncio: Any, count: int) -> int:
    """A hundred tasks want one lock, whose holder gives way to the others; an operation is one `async with`."""
    lock, sleep = asyncio.Lock(), asyncio.sleep
    each = math.ceil(count / TASKS)
    holder = 0
    disturbed = 0

    async def contend(me: int) -> None:
        nonlocal holder, disturbed
        for _ in range(each):
            async with lock:
                holder = me
                await sleep(0)
                if holder != me:
                    disturbed += 1

    await asyncio.gather(*[contend(number) for number in range(TASKS)])
    check(not disturbed and not lock.locked(), f"{disturbed} times another task got in")
    return each * TASKS


@case
async def event(asyncio: Any, count: int) -> int:
    """A hundred tasks wait for one event; an operation is one waking."""
    event = asyncio.Event()
    batches = math.ceil(count / TASKS)

    async def wait() -> int:
        spurious = 0
        for turn in turns:
            await event.wait()
            if turn is not current:
                spurious += 1
        return spurious

    turns = [object() for _ in range(batches)]
    current = None
    waiting = [asyncio.create_task(wait()) for _ in range(TASKS)]
    await asyncio.sleep(0)
    for current in turns:  # noqa: B007 - the tasks look at it
        event.set()
        event.clear()
        # Behind the tasks, which wait again by then.
        await asyncio.sleep(0)
    spurious = sum(await asyncio.gather(*waiting))
    check(not spurious, f"{spurious} wakings too early or too late")
    return batches * TASKS


@case
async def event_alone(asyncio: Any, count: int) -> int:
    """Two tasks wake each other through events; an operation is one waking."""
    mine, theirs = asyncio.Event(), asyncio.Event()
    rounds = math.ceil(count / 2)
    answers = 0

    async def answer() -> None:
        nonlocal answers
        for _ in range(rounds):
            await theirs.wait()
            theirs.clear()
            answers += 1
            mine.set()

    player = asyncio.create_task(answer())
    for _ in range(rounds):
        theirs.set()
        await mine.wait()
        mine.clear()
    await player
    check(answers == rounds, f"{answers} answers, {rounds} expected")
    return rounds * 2


@case
async def add_reader(asyncio: Any, count: int) -> int:
    """A socket that is watched and then not any more, as anyio waits for one; an operation is both calls."""
    return await _watches(asyncio, count, by_number=False)


@case
async def add_reader_number(asyncio: Any, count: int) -> int:
    """The same by the descriptor's number, as libraries in C give it."""
    return await _watches(asyncio, count, by_number=True)


async def _watches(asyncio: Any, count: int, by_number: bool) -> int:
    loop = asyncio.get_running_loop()
    add, remove = loop.add_reader, loop.remove_reader
    ours, theirs = socket.socketpair()
    with ours, theirs:
        what: Any = ours.fileno() if by_number else ours
        readable = asyncio.Event()
        removed = 0
        for _ in range(count):
            add(what, readable.set)
            removed += remove(what) is not False  # uvloop says nothing where asyncio says True
        check(removed == count, f"{removed} of {count} were watched")
        add(what, readable.set)
        theirs.send(b"x")
        await asyncio.wait_for(readable.wait(), 10)
        remove(what)
    return count


@case
async def getaddrinfo_literal(asyncio: Any, count: int) -> int:
    """An address that needs no lookup, as each connection by address resolves one."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    check([item[4] for item in found] == [("127.0.0.1", 80)], f"{found} found")
    return count


@case
async def subprocess(asyncio: Any, count: int) -> int:
    """A program that is started and ends at once, and is waited for; nothing goes in or out."""
    for _ in range(count):
        process = await asyncio.create_subprocess_exec("/bin/true")
        check(await process.wait() == 0, "the program failed")
    return count


@case
async def subprocess_output(asyncio: Any, count: int) -> int:
    """A program whose output is read to its end."""
    pipe = -1  # subprocess.PIPE
    for _ in range(count):
        process = await asyncio.create_subprocess_exec("/bin/echo", "text", stdout=pipe)
        output, _ = await process.communicate()
        check(output == b"text\n" and process.returncode == 0, f"{output!r} came, and the status {process.returncode}")
    return count


for _transfer in (transfers.bulk_tcp, transfers.bulk_unix, transfers.sendfile):
    case(_transfer)


async def _give(value: int) -> int:
    return value


async def drive(asyncio: Any, body: Case, seconds: float) -> dict[str, float]:
    """Warms up until the number of operations that fill `seconds` is known, then measures that many."""
    warm_up = min(max(seconds / 4, 0.02), 0.3)
    count = 16
    while True:
        start = time.perf_counter()
        done = await body(asyncio, count)
        took = time.perf_counter() - start
        if took >= warm_up:
            break
        count *= 2
    wanted = max(int(done * seconds / took), 1)
    gc.collect()

    usage, cpu, start = resource.getrusage(resource.RUSAGE_SELF), time.process_time(), time.perf_counter()
    done = await body(asyncio, wanted)
    cpu, elapsed = time.process_time() - cpu, time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    check(done >= wanted, f"{done} operations done, {wanted} wanted")
    return {
        "operations": done,
        "seconds": elapsed,
        "user": after.ru_utime - usage.ru_utime,
        "system": after.ru_stime - usage.ru_stime,
        "cpu": cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--form", choices=["loop", "module"], required=True)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    binding = bind(options.loop, options.form)
    figures = binding.run(drive(binding.asyncio, CASES[options.case], options.seconds))
    print(json.dumps(figures), flush=True)
    # The harness reads this process's memory before it closes our input.
    sys.stdin.read()


if __name__ == "__main__":
    main()
