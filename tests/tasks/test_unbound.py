"""Unbound methods of asyncio's classes: `map(asyncio.Task.result, done)`.

Each method is called for each kind of object; stock asyncio in the same process is the oracle.
"""

import _asyncio
import asyncio
import contextvars
import gc
import inspect
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

ARGUMENTS: list[tuple[Any, ...]] = [(), (print,), (ValueError("no"),), (1, 2)]
# Methods whose result has the object in it, or that print. They have tests below.
OTHERWISE = {"__init__", "__repr__", "print_stack", "_asyncio_awaited_by", "_source_traceback", "_loop", "get_loop"}


def described(value: object) -> object:
    text = re.sub(r"0x[0-9a-f]+|Task-\d+", "…", repr(value))
    return type(value).__name__, text if isinstance(value, (int, str, Exception, list, type(None))) else "…"


def outcome(call: Callable[[], object]) -> object:
    try:
        return described(call())
    except (Exception, asyncio.CancelledError) as error:
        # Messages of argument errors may or may not have the qualified name of the function.
        return type(error).__name__, "…" if isinstance(error, TypeError) else re.sub(
            r"0x[0-9a-f]+|\w+\.(?=\w+' obj)", "…", str(error)
        )


async def value(result: object) -> object:
    if isinstance(result, Exception):
        raise result
    return result


async def waits_for(future: Any) -> object:
    return await future


def turn(loop: Any) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def make(loop: Any, cls: type, kind: str) -> Any:
    """Create a future or task of a class, in a state."""
    if kind == "new":
        return cls.__new__(cls)
    if issubclass(cls, asyncio.Task):
        results = {"done": 5, "failed": KeyError("failed")}
        task = cls(value(results[kind]) if kind in results else waits_for(loop.create_future()), loop=loop, name="one")
        turn(loop)
        if kind == "cancelled":
            task.cancel("because")
            turn(loop)
            turn(loop)
        return task
    future = cls(loop=loop)
    if kind == "done":
        future.set_result(5)
    elif kind == "failed":
        future.set_exception(KeyError("failed"))
    elif kind == "cancelled":
        future.cancel("because")
    return future


def outcomes(loop: Any, owner: type, cls: type, kind: str) -> dict[str, object]:
    """Return what each attribute of asyncio's class `owner` does with such an object."""
    found: dict[str, object] = {}
    for name, stock in sorted(vars(getattr(_asyncio, owner.__name__)).items()):
        what = type(stock).__name__
        if name in OTHERWISE or what not in ("method_descriptor", "wrapper_descriptor", "getset_descriptor"):
            continue
        attribute: Any = getattr(owner, name)
        if kind == "new" and name == "_log_destroy_pending":
            continue  # asyncio's fields are empty then
        if what == "getset_descriptor":
            thing = make(loop, cls, kind)
            found[name] = outcome(lambda: attribute.__get__(thing))  # noqa: B023
            if name != "_log_destroy_pending":
                for new in (True, False):
                    found[f"{name} = {new}"] = outcome(lambda: attribute.__set__(thing, new))  # noqa: B023
            continue
        if kind == "new" and name in ("get_context", "get_coro"):
            continue  # asyncio crashes
        for arguments in ARGUMENTS:
            thing = make(loop, cls, kind)
            call = f"{name}{arguments}"
            found[call] = outcome(lambda: attribute(thing, *arguments))  # noqa: B023
            found[f"state after {call}"] = outcome(lambda: thing._state)  # noqa: B023
            turn(loop)
            found[f"state a turn after {call}"] = outcome(lambda: thing._state)  # noqa: B023
    return found


def all_outcomes(new_loop: Callable[[], Any], owner: type, of: str, kind: str, derived: bool) -> dict[str, object]:
    loop = new_loop()
    loop.set_exception_handler(lambda *_: None)
    try:
        cls = type(loop.create_future())
        if of == "Task":
            task = loop.create_task(value(1))
            cls = type(task)
            loop.run_until_complete(task)
            del task
        if derived:
            cls = type(cls.__name__, (cls,), {})
        found = outcomes(loop, owner, cls, kind)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        for _ in range(4):
            turn(loop)
        gc.collect()
        return found
    finally:
        loop.close()


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("derived", [False, True], ids=["exact", "subclass"])
@pytest.mark.parametrize("kind", ["new", "pending", "done", "failed", "cancelled"])
@pytest.mark.parametrize(("owner", "of"), [("Future", "Future"), ("Future", "Task"), ("Task", "Task")])
def test_every_method_of_the_class(aio: ModuleType, impl: Any, owner: str, of: str, kind: str, derived: bool) -> None:
    expected = all_outcomes(asyncio.SelectorEventLoop, getattr(asyncio, owner), of, kind, derived)
    seen = all_outcomes(impl.new_event_loop, getattr(aio, owner), of, kind, derived)
    if impl.is_rondel and aio is not asyncio and owner != of:
        # `rondel.Task` does not derive from `rondel.Future`: descriptors other than methods accept
        # only their class.
        expected = {name: right for name, right in expected.items() if "(" in name and "__" not in name}
    different = {name: (right, seen.get(name)) for name, right in expected.items() if right != seen.get(name)}
    assert not different


def test_in_the_ways_that_programs_have(aio: ModuleType, run: Any) -> None:
    async def main() -> None:
        tasks = [aio.create_task(aio.sleep(0 if i < 2 else 60, i), name=f"n{2 - i}") for i in range(3)]
        done, _ = await aio.wait(tasks[:2])
        assert sorted(map(aio.Task.result, done)) == [0, 1]
        assert all(map(aio.Future.done, done))
        assert [aio.Task.get_name(task) for task in sorted(tasks, key=aio.Task.get_name)] == ["n0", "n1", "n2"]
        aio.get_running_loop().call_soon(aio.Task.cancel, tasks[2])
        await aio.wait([tasks[2]])
        assert tasks[2].cancelled() and aio.Future.cancelled(tasks[2])
        this = aio.current_task()
        if hasattr(aio.Task, "get_context"):
            context = contextvars.copy_context()
            task = aio.create_task(aio.sleep(0), context=context)
            assert aio.Task.get_context(task) is context
            await task
        assert repr(this) == aio.Task.__repr__(this)
        future = aio.get_running_loop().create_future()
        assert repr(future) == aio.Future.__repr__(future)
        aio.Future.set_result(future, 7)
        assert aio.Future.result(future) == 7 == await future
        assert [aio.Future.get_loop(it) for it in (future, this)] == [aio.get_running_loop()] * 2

    run(main())


def test_a_task_that_is_ended_from_outside(aio: ModuleType, run: Any, problems: list[dict[str, Any]]) -> None:
    async def main() -> None:
        future = aio.get_running_loop().create_future()
        task = aio.create_task(waits_for(future))
        await aio.sleep(0)
        aio.Future.set_result(task, 5)
        assert await task == 5
        future.set_result(6)
        await aio.sleep(0)
        await aio.sleep(0)
        assert task.result() == 5

    run(main())
    assert [type(problem["exception"]).__name__ for problem in problems] == ["InvalidStateError"]
    problems.clear()


@pytest.mark.parametrize("derived", [False, True], ids=["exact", "subclass"])
def test_init_of_the_class(aio: ModuleType, impl: Any, loop: Any, derived: bool) -> None:
    cls = type(loop.create_future())
    if derived:
        cls = type("Derived", (cls,), {"__init__": lambda self, **names: aio.Future.__init__(self, **names)})
    future = cls.__new__(cls)
    aio.Future.__init__(future, loop=loop)
    assert future.get_loop() is loop
    future.set_result(1)
    assert loop.run_until_complete(future) == 1


def test_an_overriding_method_can_call_that_of_the_class(aio: ModuleType, impl: Any, loop: Any) -> None:
    cls = type(loop.create_future())
    derived: Any = type("Derived", (cls,), {"result": lambda self: [aio.Future.result(self)]})
    future = derived(loop=loop)
    future.set_result(1)
    assert future.result() == [1]


def test_the_methods_look_as_ever(aio: ModuleType) -> None:
    for cls in (asyncio.Future, asyncio.Task):
        for name in ("result", "cancel", "add_done_callback"):
            method = getattr(cls, name)
            assert type(method).__name__ == "method_descriptor"
            assert method.__name__ == name and method.__objclass__ is cls
            assert method.__qualname__ == f"{cls.__name__}.{name}"
    assert str(inspect.signature(asyncio.Future.cancel)) == "(self, /, msg=None)"


def test_objects_of_asyncio_itself(aio: ModuleType, loop: Any) -> None:
    """Objects of asyncio's own classes are passed to the module's."""
    future: Any = asyncio.Future(loop=loop)
    assert not aio.Future.done(future)
    aio.Future.set_result(future, 3)
    assert aio.Future.result(future) == future.result() == 3
    with pytest.raises(TypeError):
        aio.Future.result(3)
    with pytest.raises(TypeError):
        aio.Future.result()
    with pytest.raises(TypeError):
        aio.Task.result(future)


def test_handles(aio: ModuleType, impl: Any, loop: Any) -> None:
    called: list[int] = []
    for cls in {aio.Handle, asyncio.Handle}:
        handle = loop.call_soon(called.append, 1)
        timer = loop.call_later(0, called.append, 2)
        assert not cls.cancelled(handle) and not cls.cancelled(timer)
        cls._run(handle)
        assert called == [1]
        cls.cancel(handle)
        cls.cancel(timer)
        assert handle.cancelled() and timer.cancelled() and cls.cancelled(timer)
        assert cls.__repr__(handle) == repr(handle)
        called.clear()
    for cls in {aio.TimerHandle, asyncio.TimerHandle}:
        timer = loop.call_later(60, print)
        other = loop.call_later(70, print)
        assert cls.when(timer) == timer.when()
        assert cls.__lt__(timer, other) and not cls.__eq__(timer, other)
        assert cls.__hash__(timer) == hash(timer)
        cls.cancel(timer)
        assert timer.cancelled() and cls.cancelled(timer)
        other.cancel()
    for _ in range(3):
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert called == []


def test_methods_of_the_loops_class(loop: Any) -> None:
    base, selector = asyncio.BaseEventLoop, asyncio.SelectorEventLoop
    seen: list[object] = []

    async def child() -> None:
        seen.append("create_task")

    async def main() -> None:
        base.call_soon(loop, seen.append, "call_soon")
        base.create_task(loop, child())
        thread = threading.Thread(target=base.call_soon_threadsafe, args=(loop, seen.append, "call_soon_threadsafe"))
        thread.start()
        thread.join()
        now = loop.time()
        base.call_at(loop, now + 0.02, seen.append, "call_at")
        base.call_later(loop, 0.01, seen.append, "call_later")
        timer = base.call_at(loop, now + 0.005, seen.append, "cancelled")
        assert timer in loop._scheduled
        timer.cancel()
        loop.call_at(now + 0.03, seen.append, "last")
        while "last" not in seen:
            await asyncio.sleep(0.001)

        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            done = base.create_future(loop)
            selector.add_reader(loop, here, done.set_result, "add_reader")  # type: ignore[call-arg,arg-type,misc]
            there.send(b".")
            seen.append(await done)
            assert selector.remove_reader(loop, here)  # type: ignore[call-arg,arg-type,misc]
        done = base.create_future(loop)
        selector.add_signal_handler(loop, signal.SIGUSR1, done.set_result, "add_signal_handler")
        os.kill(os.getpid(), signal.SIGUSR1)
        seen.append(await done)
        assert selector.remove_signal_handler(loop, signal.SIGUSR1)

    loop.run_until_complete(main())
    at_once = {"call_soon", "create_task", "call_soon_threadsafe"}
    assert set(seen[:3]) == at_once
    assert seen[3:] == ["call_later", "call_at", "last", "add_reader", "add_signal_handler"]


def test_what_the_loops_class_has_scheduled_runs_in_its_context(loop: Any) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    seen = []
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    asyncio.BaseEventLoop.call_at(loop, loop.time(), lambda: seen.append(variable.get()), context=context)
    variable.set("outside")
    asyncio.BaseEventLoop.call_at(loop, loop.time() + 0.001, lambda: seen.append(variable.get()))
    variable.set("later")
    asyncio.BaseEventLoop.call_at(loop, loop.time() + 0.002, loop.stop)
    loop.run_forever()
    assert seen == ["given", "outside"]
