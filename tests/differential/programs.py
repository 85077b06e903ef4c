"""Random asyncio programs, as data: `interpreter.py` runs them.

A program is a few tasks. A task is a body: a list of statements, some of which have bodies too.
Every statement runs at most once, so that programs end, and each statement with a timeout has its
own timer. Programs avoid only what asyncio leaves undefined:

* Timers with equal deadlines: `set_delays` gives every timer a delay that no sum of others can equal.
* A cycle of tasks that wait for each other, whose cancellation recurses endlessly: see
  `Interpreter.other_task`.
* The order of iteration over sets: see `Interpreter.completed` and `Interpreter.group`.
"""

import sys
from dataclasses import dataclass, field

from hypothesis import strategies as st

#: Delays are exact sums of these, in seconds, so that floats and nanoseconds give the same time.
TICK = 2.0**-9
MOST_TIMERS = 20
ROUND = TICK * 2**MOST_TIMERS
#: Longer than any program takes, in seconds.
FAR = 2.0**18


@dataclass(eq=False)
class Timer:
    """A placeholder for a delay."""

    rounds: int
    delay: float = field(default=0.0)

    def __repr__(self):
        return f"{self.delay:g}"


@dataclass
class Program:
    tasks: list
    eager: bool
    debug: bool


def timers(node):
    if isinstance(node, Timer):
        yield node
    elif isinstance(node, list | tuple):
        for part in node:
            yield from timers(part)


def set_delays(program):
    """Whole rounds plus a power of two of ticks.

    Equal deadlines would need equal sets of timers.
    """
    for number, timer in enumerate(timers(program.tasks)):
        within = TICK * 2**number if number < MOST_TIMERS else 0.0
        # Timers beyond MOST_TIMERS get no delay: most functions set no timer for 0 seconds.
        timer.delay = timer.rounds * ROUND + within if within else 0.0
    return program


timer = st.builds(Timer, st.integers(0, 3))
timeout = st.one_of(timer, timer, timer, st.sampled_from([None, 0, -1]))
#: Statements that set a timer even for 0 seconds. Two of them in one turn would have equal
#: deadlines.
timer_or_none = st.one_of(timer, timer, timer, st.none())
small = st.integers(0, 2)
number = st.integers(0, 5)
coin = st.booleans()
message = st.sampled_from([None, "stop", "enough"])
just = st.just


def statement(name, *parts):
    return st.tuples(just(name), *parts)


# ---- actions: they do not wait, so callbacks can do them, too ----

ACTIONS = [
    statement("note"),
    statement("cancel", number, message),
    statement("cancel", number, message),
    statement("uncancel", number),
    statement("set_var", number),
    statement("future_result", small, number),
    statement("future_exception", small, number),
    statement("future_cancel", small, message),
    statement("future_callback", small, number),
    statement("future_drop_callback", small),
    statement("future_look", small),
    statement("task_callback", number, number),
    statement("event_set", small),
    statement("event_clear", small),
    statement("lock_release", small),
    statement("semaphore_release", small),
    statement("put_nowait", small, number),
    statement("get_nowait", small),
    statement("task_done", small),
    statement("handle_cancel", number),
]
if hasattr(sys.modules.get("asyncio") or __import__("asyncio"), "QueueShutDown"):
    ACTIONS.append(statement("shutdown", small, coin))

action = st.one_of(ACTIONS)
actions = st.lists(action, max_size=3)
# ---- statements of tasks ----

SIMPLE = [
    statement("act", action),
    statement("act", action),
    statement("act", action),
    statement("turns", st.integers(1, 4)),
    statement("turns", st.integers(1, 4)),
    statement("sleep", timer),
    statement("sleep", timer),
    statement("call_soon", actions, coin),
    statement("call_later", timer, actions, coin),
    statement("await_task", number),
    statement("await_future", small),
    statement("acquire", small),
    statement("acquire_permit", small),
    statement("event_wait", small),
    statement("condition_notify", st.integers(1, 3)),
    statement("barrier_wait"),
    statement("barrier_reset"),
    statement("barrier_abort"),
    statement("put", small, number),
    statement("get", small),
    statement("join", small),
    statement(
        "raise", st.sampled_from(["ValueError", "KeyError", "CancelledError", "StopIteration", "ExceptionGroup"])
    ),
    statement("return", number),
    statement("reschedule", timeout),
    statement("yield"),
]
if __debug__:
    SIMPLE.append(statement("exit", st.sampled_from(["SystemExit", "KeyboardInterrupt"])))


def target(body):
    """An awaitable that a function gets: a coroutine, a task, a future."""
    return st.one_of(statement("body", body), statement("task", number), statement("future", small))


def compound(body):
    targets = st.lists(target(body), min_size=1, max_size=4)
    return [
        statement("spawn", body),
        statement("spawn", body),
        statement("spawn", body),
        statement("try", body, st.sampled_from(["errors", "cancellation", "nothing"]), coin, body),
        statement("with_lock", small, body),
        statement("with_permit", small, body),
        statement("with_condition", body),
        statement("with_barrier", body),
        statement("condition_wait", body),
        statement("condition_wait_for", number),
        statement("timeout", timeout, body),
        statement("timeout", timeout, body),
        statement("timeout_at", timer, body),
        statement("wait_for", target(body), timeout),
        statement("wait_for", target(body), timeout),
        statement("shield", target(body)),
        statement("gather", targets, coin),
        statement("gather", targets, coin),
        statement(
            "wait", targets, timer_or_none, st.sampled_from(["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"])
        ),
        statement("completed", targets, timer_or_none, coin),
        statement("group", st.lists(body, max_size=3), body),
        statement("group", st.lists(body, max_size=3), body),
    ]


leaf = st.lists(st.one_of(SIMPLE), max_size=3)
inner = st.lists(st.one_of(*SIMPLE, *compound(leaf)), max_size=3)
outer = st.lists(st.one_of(*SIMPLE, *compound(inner)), min_size=1, max_size=5)

programs = st.builds(
    Program,
    tasks=st.lists(outer, min_size=1, max_size=4),
    eager=st.sampled_from([False, False, False, sys.version_info >= (3, 12)]),
    debug=st.sampled_from([False] * 7 + [True]),
).map(set_delays)
