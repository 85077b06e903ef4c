"""A part of CPython that is gone, or is not what it was, has a fallback, or an error that names it.

Each is taken away before `rondel` is imported, in a process of its own.
"""

import subprocess
import sys
import textwrap

import pytest

# What a program uses of tasks, timeouts, gather and streams.
PROGRAM = """
import asyncio as stock, sys, weakref
import rondel as asyncio

steps = []

async def child(number):
    assert asyncio.current_task() is stock.current_task() is children[number]
    assert asyncio.current_task() in asyncio.all_tasks()
    await asyncio.sleep(0)
    # A step within a step: each knows its own task.
    assert asyncio.current_task() is children[number]
    return number

children = {}

async def slow():
    try:
        async with asyncio.timeout(0.01) as timeout:
            await asyncio.sleep(60)
    except TimeoutError:
        assert timeout.expired()
        return "timed out"

async def eager(outer):
    assert asyncio.current_task() is not outer
    return "eager"

async def echo(reader, writer):
    writer.writelines([await reader.readline(), b"end"])
    await writer.drain()
    writer.close()

async def main():
    outer = asyncio.current_task()
    assert outer is not None
    for number in range(3):
        children[number] = asyncio.create_task(child(number), name=f"child {number}")
    assert [task.get_name() for task in children.values()] == ["child 0", "child 1", "child 2"]
    assert asyncio.all_tasks() == {outer, *children.values()}
    assert await asyncio.gather(*children.values()) == [0, 1, 2]
    assert asyncio.current_task() is outer
    assert asyncio.all_tasks() == {outer}

    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        task = asyncio.create_task(eager(outer))
        assert asyncio.current_task() is outer
        assert task.done() and await task == "eager"
        asyncio.get_running_loop().set_task_factory(None)

    assert await slow() == "timed out"
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.01)
    except TimeoutError:
        pass
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]
    assert len([await future for future in asyncio.as_completed([slow(), slow()])]) == 2
    done, pending = await asyncio.wait([asyncio.create_task(slow())])
    assert not pending
    assert await asyncio.shield(slow()) == "timed out"

    barrier = asyncio.Barrier(2)
    assert "filling" in repr(barrier)
    await asyncio.gather(barrier.wait(), barrier.wait())
    queue = asyncio.Queue()
    await queue.put(1)
    assert await queue.get() == 1
    assert await asyncio.to_thread(int, "7") == 7

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"line\\n")
    assert await reader.read() == b"line\\nend"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    asyncio.get_running_loop().call_soon(lambda: steps.append(asyncio.current_task()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert steps == [None]
    return asyncio.create_task(asyncio.sleep(60))

for run in asyncio.run, lambda coroutine: stock.run(coroutine, loop_factory=asyncio.new_event_loop):
    steps.clear()
    if sys.version_info >= (3, 12) or run is asyncio.run:
        assert run(main()).cancelled()
print(asyncio._rondel.probes())
"""

NEW, OLD = (3, 14), (3, 11)
# (the probe that fails, what takes the part away, from which version, and before which)
FALLBACKS = [
    ("current_task", "del _asyncio._current_tasks", OLD, NEW),
    ("current_task", "_asyncio._current_tasks = {}", OLD, NEW),
    ("current_task", "_asyncio._current_tasks = []", OLD, NEW),
    ("current_task", "del _asyncio._current_tasks; without_swap()", (3, 12), NEW),
    ("current_task", "without_swap()", NEW, None),
    ("current_task", "without_swap(); del tasks._c_current_task", NEW, None),
    ("all_tasks", "tasks._all_tasks = type('Tasks', (weakref.WeakSet,), {})(); python()", OLD, (3, 12)),
    ("all_tasks", "tasks._scheduled_tasks = type('Tasks', (weakref.WeakSet,), {})(); python()", (3, 12), NEW),
    ("all_tasks", "tasks._eager_tasks = type('Tasks', (set,), {})(); python()", (3, 12), NEW),
    (None, "del _asyncio._register_task; del _asyncio._unregister_task", NEW, None),
    ("running_loop", "foreign = events._get_running_loop; events._get_running_loop = lambda: foreign()", OLD, None),
    ("stock_code", "del tasks._PyTask", OLD, None),
    ("stock_code", "tasks._wait = print", OLD, None),
    ("stock_code", "wrap(base_events.BaseEventLoop, 'create_task')", OLD, None),
    ("stock_code", "wrap(streams.StreamReaderProtocol, 'connection_made')", OLD, None),
    ("stock_code", "wrap(selector_events._SelectorSocketTransport, 'write')", OLD, None),
    ("stock_code", "del selector_events._SelectorSocketTransport", OLD, None),
    ("stock_code", "wrap(taskgroups.TaskGroup, '__init__')", OLD, None),
    ("stock_code", "wrap(timeouts.Timeout, '__aenter__')", OLD, None),
    ("stock_code", "rename(timeouts, '_State', '_Status')", OLD, None),
    ("stock_code", "locks._BarrierState = without(locks._BarrierState, 'BROKEN')", OLD, None),
    ("stock_code", "del sslproto.SSLProtocolState", OLD, None),
]

TAKE = """
import asyncio, enum, inspect, types, weakref
import _asyncio  # not first: `asyncio.tasks` would not find its C functions
from asyncio import base_events, events, locks, selector_events, sslproto, streams, taskgroups, tasks, timeouts

def wrap(class_, name):
    # A callable without `__code__`, as a function written in C is.
    class Native:
        def __get__(self, instance, _):
            return self if instance is None else types.MethodType(self, instance)

        def __call__(self, *args, **kwargs):
            return function(*args, **kwargs)

    function = getattr(class_, name)
    setattr(class_, name, Native())

def without(kind, name):
    return enum.Enum(kind.__name__, {each.name: each.value for each in kind if each.name != name})

def rename(module, old, new):
    # In asyncio's own functions as well.
    source = inspect.getsource(module).replace(old, new)
    exec(compile(source, module.__file__, "exec"), vars(module))
    delattr(module, old)

def without_swap():
    for name in "_swap_current_task", "_c_swap_current_task":
        if hasattr(tasks, name):
            delattr(tasks, name)

def python():
    # asyncio's functions in Python, which look at the module's own sets.
    for name in "_register_task", "_unregister_task", "_register_eager_task", "_unregister_eager_task":
        if hasattr(tasks, name):
            setattr(tasks, name, getattr(tasks, name.replace("_", "_py_", 1)))
"""


def here(case):
    *_, since, before = case
    return since <= sys.version_info[:2] and (before is None or sys.version_info[:2] < before)


def run(*programs):
    source = "\n".join(textwrap.dedent(program) for program in programs)
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("probe", "take"), [case[:2] for case in FALLBACKS if here(case)])
def test_what_is_gone_has_a_fallback(probe, take):
    done = run(TAKE, take, PROGRAM)
    assert (done.returncode, done.stderr) == (0, "")
    probes = eval(done.stdout)
    if probe is not None:
        assert probes[probe] is False


def test_the_program_runs_with_everything_in_place():
    done = run(PROGRAM)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("take", "named"),
    [
        ("del events._set_running_loop", "asyncio.events._set_running_loop"),
        ("del events._get_running_loop", "asyncio.events._get_running_loop"),
        ("del tasks._enter_task", "asyncio.tasks._enter_task"),
        ("del _asyncio.Future", "_asyncio.Future"),
        ("del taskgroups.TaskGroup", "asyncio.taskgroups.TaskGroup"),
    ],
)
def test_what_has_no_fallback_is_named(take, named):
    done = run(TAKE, take, "import rondel")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: Rondel needs {named}, which this interpreter does not have; CPython 3.11 to ")
