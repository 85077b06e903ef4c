"""`rondel.run` and `rondel.Runner`: asyncio's, but without a `loop_factory` the loop is Rondel's.

All else that a runner does is asyncio's code of the running version: Ctrl-C, cancelling the
remaining tasks, shutting down generators and the executor.
"""

import asyncio
import functools
import sys
import weakref
from asyncio import events, runners
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ._event_loop import EventLoop

__all__ = ("Runner", "run")

_T = TypeVar("_T")

# Saved now, because `install()` replaces `asyncio.runners.Runner` by the class below.
_StockRunner = runners.Runner


class _RunnerClass(type):
    """After `install()`, an `asyncio.Runner` made before it is still an instance of the class."""

    def __instancecheck__(cls, instance: object) -> bool:
        return super().__instancecheck__(instance) or (cls is Runner and isinstance(instance, _StockRunner))


class Runner(_StockRunner, metaclass=_RunnerClass):  # type: ignore[misc]  # final to typeshed; at run time it is not
    """A context manager that creates an event loop, runs coroutines in it and closes it at the end.

    Like `asyncio.Runner`, but without a `loop_factory` the loop is a `rondel.EventLoop`.
    """

    def __init__(
        self,
        *,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        super().__init__(debug=debug, loop_factory=loop_factory or functools.partial(_default_loop, weakref.ref(self)))


def _default_loop(runner: "weakref.ref[Runner]") -> asyncio.AbstractEventLoop:
    """Create the loop of a runner without a factory.

    The reference is weak to avoid a reference cycle.
    """
    loop: asyncio.AbstractEventLoop = EventLoop()
    # asyncio calls set_event_loop() only if there is no factory. So do we for our own factory; the
    # flag makes the runner's close() undo it.
    events.set_event_loop(loop)
    vars(runner())["_set_event_loop"] = True
    return loop


def _check_no_running_loop() -> None:
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")


# The body is repeated, because a shared function would be an additional frame in tracebacks.
if sys.version_info >= (3, 12):

    def run(
        main: Coroutine[Any, Any, _T],
        *,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> _T:
        """Run a coroutine in a new Rondel loop and return its result, as `asyncio.run` does."""
        _check_no_running_loop()
        with Runner(debug=debug, loop_factory=loop_factory) as runner:
            return runner.run(main)

else:

    def run(main: Coroutine[Any, Any, _T], *, debug: bool | None = None) -> _T:
        """Run a coroutine in a new Rondel loop and return its result, as `asyncio.run` does."""
        _check_no_running_loop()
        with Runner(debug=debug) as runner:
            return runner.run(main)
