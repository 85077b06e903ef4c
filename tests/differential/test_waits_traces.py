"""Programs with `gather`, `wait`, `as_completed` and `shield` leave the same trace as on asyncio.

A program is a few futures and tasks, and tasks that wait for them, each by one function. A driver
completes and cancels objects at given points of given turns. After each turn it records everything
observable: states, whether an exception was retrieved, the number of callbacks. Each waiter is
cancelled at each turn; random programs do the rest.

Sets have no order, so cases with several futures that are done from the start are left out: in
these, stock asyncio's own results vary.
"""

import asyncio
import functools
import gc
import random
import sys
from itertools import product

import pytest

#: More turns than any of the programs takes.
TURNS = 6


class Failure(Exception):
    pass


class Program:
    """`plan`: the initial objects and their waiters. `script`: (turn, action, number), in order."""

    def __init__(self, aio, plan, script):
        self.aio = aio
        self.plan = plan
        self.script = script
        self.trace = []
        self.inner = []
        self.outer = []
        self.waiters = []
        self.numbers = {}

    def note(self, *what):
        self.trace.append(what)

    async def step(self, number, turns, end):
        self.note("task", number, "begins")
        try:
            for _ in range(turns):
                await self.aio.sleep(0)
        except asyncio.CancelledError as error:
            self.note("task", number, "cancelled", *error.args)
            if end != "ignores":
                raise
        if end == "raises":
            raise Failure(number)
        if end == "cancels":
            raise asyncio.CancelledError(f"by {number} itself")
        return number

    def outcome(self, future):
        if future is None:
            return None
        if not future.done():
            return "pending"
        if future.cancelled():
            return "cancelled"
        return repr(future._exception) if future._exception is not None else "result"

    async def gather(self, which, mode):
        outer = self.aio.gather(*(self.inner[n] for n in which), return_exceptions=mode % 2 == 1)
        self.outer.append(outer)
        return await outer

    async def gather_coroutines(self, which, mode):
        made = [
            self.step(f"made of {n}", n, ["returns", "raises", "cancels", "ignores"][(n + mode) % 4]) for n in which
        ]
        outer = self.aio.gather(*made, *(self.inner[n] for n in which[:1]), return_exceptions=mode % 2 == 1)
        self.outer.append(outer)
        return await outer

    async def wait(self, which, mode):
        modes = [self.aio.ALL_COMPLETED, self.aio.FIRST_COMPLETED, self.aio.FIRST_EXCEPTION]
        done, pending = await self.aio.wait([self.inner[n] for n in which], return_when=modes[mode % 3])
        return [sorted(self.numbers[future] for future in each) for each in (done, pending)]

    async def complete(self, which, mode):
        results = []
        for each in self.aio.as_completed([self.inner[n] for n in which]):
            try:
                results.append(await each)
            except Failure as error:
                results.append(repr(error))
            self.note("completed", results[-1])
        return results

    async def complete_async(self, which, mode):
        results = []
        async for each in self.aio.as_completed([self.inner[n] for n in which]):
            results.append(self.numbers[each])
            self.note("completed", results[-1])
        return results

    async def shield(self, which, mode):
        outer = self.aio.shield(self.inner[which[0]])
        if outer is not self.inner[which[0]]:
            self.outer.append(outer)
        return await outer

    async def shield_gather(self, which, mode):
        gathered = self.aio.gather(*(self.inner[n] for n in which), return_exceptions=mode % 2 == 1)
        self.outer.append(gathered)
        return await self.aio.shield(gathered)

    async def waiter(self, number, kind, which, mode):
        try:
            result = await getattr(self, kind)(which, mode)
        except asyncio.CancelledError as error:
            self.note("waiter", number, "cancelled", *error.args)
            raise
        except Failure as error:
            self.note("waiter", number, "raised", repr(error))
        else:
            self.note("waiter", number, "returned", repr(result))

    def act(self, action, number):
        kind, _, what = action.partition(" ")
        among = {"inner": self.inner, "outer": self.outer, "waiter": self.waiters}[what]
        if not among:
            return
        target = among[number % len(among)]
        if kind == "cancel":
            self.note(action, number, target.cancel(f"cancelled {what} {number}"))
        elif not target.done() and isinstance(target, asyncio.Future) and not isinstance(target, asyncio.Task):
            if kind == "end":
                target.set_result(number)
            else:
                target.set_exception(Failure(number))

    def look(self):
        for name, futures in (("inner", self.inner), ("outer", self.outer), ("waiter", self.waiters)):
            for number, future in enumerate(futures):
                # From 3.14 on asyncio's shield adds a callback for call graphs. In Rondel the
                # watcher does that.
                names = [getattr(callback, "__qualname__", "") for callback, _ in future._callbacks or ()]
                callbacks = sum(not name.endswith("_clear_awaited_by_callback") for name in names)
                self.note(name, number, self.outcome(future), future._log_traceback, callbacks)

    async def drive(self):
        loop = self.aio.get_running_loop()
        for number, (turns, end) in enumerate(self.plan["inner"]):
            future = loop.create_future() if end == "future" else self.aio.create_task(self.step(number, turns, end))
            self.numbers[future] = number
            self.inner.append(future)
        for number, each in enumerate(self.plan["waiters"]):
            self.waiters.append(self.aio.create_task(self.waiter(number, *each)))
        for turn in range(TURNS):
            for when, action, number in self.script:
                if when == turn:
                    self.act(action, number)
            await self.aio.sleep(0)
            self.note("turn", turn)
            self.look()
        for _ in range(TURNS):
            for future in [*self.waiters, *self.inner]:
                future.cancel("at the end")
            await self.aio.sleep(0)
        self.note("end")
        self.look()
        assert all(waiter.done() for waiter in self.waiters)
        # Exceptions that were not retrieved must not be reported.
        for future in [*self.inner, *self.outer]:
            if future.done() and not future.cancelled():
                future.exception()
        return self.trace


def traces_of(module, new_event_loop, programs, debug):
    problems = []

    async def main():
        return [await Program(module, *program).drive() for program in programs]

    with module.Runner(loop_factory=new_event_loop, debug=debug) as runner:
        loop = runner.get_loop()
        loop.slow_callback_duration = 60
        # The callback's name is the same, but a native callback has no line number.
        loop.set_exception_handler(
            lambda _, context: problems.append((context["message"].partition("(")[0], repr(context.get("exception"))))
        )
        traces = runner.run(main())
    gc.collect(1)
    return traces, problems


@functools.cache
def expected_traces(programs, debug):
    return traces_of(asyncio, asyncio.SelectorEventLoop, eval(programs), debug)


def compare(impl, programs, debug):
    if impl.name == "asyncio":
        pytest.skip("is what the others are compared with")
    expected, expected_problems = expected_traces(repr(programs), debug)
    traces, problems = traces_of(impl.module, impl.new_event_loop, programs, debug)
    for program, trace, should in zip(programs, traces, expected, strict=True):
        assert trace == should, program
    # It depends on the collector when an unretrieved exception is reported.
    assert sorted(problems) == sorted(expected_problems)


KINDS = ["gather", "gather_coroutines", "wait", "complete", "shield", "shield_gather"]
if sys.version_info >= (3, 13):
    KINDS.append("complete_async")
INNER = [(0, "future"), (2, "returns"), (1, "raises"), (3, "ignores"), (0, "future"), (2, "cancels")]


SETS = {"wait", "complete", "complete_async"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_waiter_is_cancelled_in_any_turn(impl, kind, debug):
    programs = []
    for which, mode, turn in product([[0], [1, 2, 0], [5, 4, 4, 1]], range(3), range(4)):
        plan = {"inner": INNER, "waiters": [(kind, which, mode)]}
        programs.append((plan, [(turn, "cancel waiter", 0), (2, "end inner", 0), (2, "end inner", 4)]))
        programs.append((plan, [(1, "end inner", 0), (1, "fail inner", 4), (turn, "cancel waiter", 0)]))
    compare(impl, programs, debug)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_waited_for_ends_in_any_turn(impl, kind, debug):
    programs = []
    begin = 1 if kind in SETS else 0
    for mode, first, second in product(range(3), range(begin, 3), range(begin, 3)):
        for one, other in (("end", "fail"), ("fail", "fail"), ("cancel", "end"), ("fail", "cancel"), ("end", "end")):
            plan = {"inner": INNER, "waiters": [(kind, [0, 4], mode)]}
            programs.append((plan, [(first, f"{one} inner", 0), (second, f"{other} inner", 4)]))
    compare(impl, programs, debug)


@pytest.mark.parametrize("kind", ["gather", "gather_coroutines", "shield", "shield_gather"])
def test_the_outer_future_is_ended_in_any_turn(impl, kind, debug):
    programs = []
    for mode, turn, when in product(range(2), range(3), range(3)):
        for action, other in product(("cancel", "end", "fail"), ("end", "fail", "cancel")):
            plan = {"inner": INNER, "waiters": [(kind, [0, 4, 1], mode), (kind, [4, 0], mode)]}
            programs.append((plan, [(turn, f"{action} outer", 0), (when, f"{other} inner", 0), (when, "end inner", 4)]))
    compare(impl, programs, debug)


@pytest.mark.one_mode
@pytest.mark.parametrize("seed", range(4))
def test_random_programs(impl, seed, debug):
    dice = random.Random(seed)
    ends = ["future", "future", "future", "returns", "raises", "ignores", "cancels"]
    actions = [
        "end inner",
        "end inner",
        "fail inner",
        "cancel inner",
        "cancel outer",
        "cancel waiter",
        "end outer",
        "fail outer",
    ]
    programs = []
    for _ in range(60):
        inner = [(dice.randint(1, 4), dice.choice(ends)) for _ in range(dice.randint(1, 6))]
        waiters = [
            (dice.choice(KINDS), [dice.randrange(len(inner)) for _ in range(dice.randint(1, 5))], dice.randrange(6))
            for _ in range(dice.randint(1, 3))
        ]
        script = [(dice.randint(1, TURNS), dice.choice(actions), dice.randrange(6)) for _ in range(dice.randint(0, 8))]
        programs.append(({"inner": inner, "waiters": waiters}, script))
    compare(impl, programs, debug=seed % 3 == 0)
