"""Replaces asyncio's loop, tasks and futures by Rondel's, for CPython's own tests.

The mode `stock` changes nothing that matters: the other modes are compared with it. In the mode
`loop`, every function that creates an event loop creates a `rondel.EventLoop`. The mode `full` is
that and `rondel.install()`: the tests then use Rondel's functions and classes.

Some tests are base classes, from which CPython derives tests of its C and of its Python classes.
Each mode derives one more, for the `Task` and `Future` that asyncio has then (`derived`). Other
tests create a `BaseEventLoop` and put mocks on it: they are given a complete loop (`adapt`).
"""

import asyncio
import contextlib
import unittest
from asyncio import unix_events
from collections.abc import Iterator
from types import ModuleType
from typing import Any


def put(mode: str) -> None:
    if mode == "stock":
        return
    import rondel

    if mode == "full":
        rondel.install()

    class Meta(type):
        """Makes `asyncio.SelectorEventLoop` create Rondel loops; `isinstance` knows them."""

        def __call__(cls, selector: object = None) -> asyncio.AbstractEventLoop:
            return rondel.EventLoop()

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, rondel.EventLoop)

    stand_in = Meta("SelectorEventLoop", (), {})
    for module in (asyncio, unix_events):
        for name in ("SelectorEventLoop", "EventLoop"):
            if hasattr(module, name):
                setattr(module, name, stand_in)
    for name in ("_UnixDefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
        if policy := getattr(unix_events, name, None):
            policy._loop_factory = staticmethod(stand_in)


def new_event_loop() -> Any:
    return asyncio.SelectorEventLoop()


class Forgetful:
    """A loop whose methods that `BaseEventLoop` leaves abstract can be mocked, to no effect."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in ("_process_events", "_write_to_self"):
            super().__setattr__(name, value)


def forgetful_loop() -> Any:
    with contextlib.closing(new_event_loop()) as plain:
        return type("Loop", (Forgetful, type(plain)), {})()


def adapt(module: ModuleType, mode: str) -> None:
    """Adapts a test module that was just imported."""
    short = module.__name__.rpartition(".")[2]
    if mode != "stock" and short in ("test_base_events", "test_pep492"):
        cls = vars(module)["BaseTest" if short == "test_pep492" else "BaseEventLoopTests"]
        cls.setUp = set_up_forgetful
    if short == "test_runners" and mode != "stock":
        module.BaseTest.new_loop = lambda self: new_event_loop()
        module.BaseTest.tearDown = lambda self: set_policy(None)
    for cls in derived(short, module):
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)


def set_up_forgetful(self: Any) -> None:
    from test.test_asyncio import utils

    utils.TestCase.setUp(self)
    self.loop = forgetful_loop()
    self.set_event_loop(self.loop)


def set_policy(policy: Any) -> None:
    getattr(asyncio.events, "_set_event_loop_policy", asyncio.set_event_loop_policy)(policy)


def derived(short: str, module: Any) -> Iterator[type]:
    """Derives tests from CPython's base classes, for asyncio's current `Task` and `Future`."""
    from test.test_asyncio.utils import TestCase

    task, future = asyncio.Task, asyncio.Future
    isolated = unittest.IsolatedAsyncioTestCase
    ask = {"all_tasks": staticmethod(asyncio.all_tasks), "current_task": staticmethod(asyncio.current_task)}

    def fill(name: str, *bases: type, **body: object) -> type:
        return type(f"InPlace{name}", bases, body)

    if short == "test_tasks":
        base = module.BaseTaskTests
        stock_task, stock_future = asyncio.tasks._CTask, asyncio.futures._CFuture
        yield fill("Tests", base, module.SetMethodsTest, TestCase, Task=task, Future=future, **ask)
        yield module.add_subclass_tests(fill("SubclassTests", base, TestCase, Task=task, Future=future, **ask))
        yield fill("TaskStockFutureTests", base, TestCase, Task=task, Future=stock_future, **ask)
        yield fill("StockTaskFutureTests", base, TestCase, Task=stock_task, Future=future, **ask)
        new_task = {"new_task": lambda self, coro: task(coro, loop=self.loop)}
        yield fill("CurrentLoopTests", module.BaseCurrentLoopTests, TestCase, **new_task, **ask)
        hooks = ("_register_task", "_unregister_task", "_enter_task", "_leave_task")
        found = {hook: staticmethod(getattr(asyncio.tasks, hook)) for hook in hooks}
        yield fill("IntrospectionTests", TestCase, module.BaseTaskIntrospectionTests, Task=task, **found, **ask)
    elif short == "test_futures":
        for name, cls in ("Future", future), ("FutureSubclass", type("Subclass", (future,), {})):
            yield fill(f"{name}Tests", module.BaseFutureTests, TestCase, cls=cls)
            new_future = {"_new_future": lambda self, cls=cls: cls(loop=self.loop)}
            yield fill(f"{name}CallbackTests", module.BaseFutureDoneCallbackTests, TestCase, **new_future)
        if base := getattr(module, "BaseFutureInheritanceTests", None):
            yield fill("InheritanceTests", base, TestCase, _get_future_cls=lambda self: future)
    elif short == "test_futures2":
        yield fill("TaskTests", module.FutureTests, isolated, cls=task)
    elif short == "test_eager_task_factory":
        yield fill("LoopTests", module.EagerTaskFactoryLoopTests, TestCase, Task=task)
        if hasattr(module, "BaseEagerTaskFactoryTests"):
            yield fill("LazyCountTests", module.BaseNonEagerTaskFactoryTests, TestCase, Task=task)
            yield fill("EagerCountTests", module.BaseEagerTaskFactoryTests, TestCase, Task=task)
    elif short == "test_graph":
        yield fill("CallStackTests", module.CallStackTestBase, isolated)
    elif short == "test_free_threading":

        def lazy(self: object, loop: Any, coro: Any, **kwargs: Any) -> Any:
            return task(coro, loop=loop, **kwargs)

        def eager(self: object, loop: Any, coro: Any, eager_start: bool = True, **kwargs: Any) -> Any:
            return task(coro, loop=loop, eager_start=eager_start, **kwargs)

        for name, factory in ("Lazy", lazy), ("Eager", eager):
            yield fill(f"{name}Tests", module.TestFreeThreading, unittest.TestCase, factory=factory)
