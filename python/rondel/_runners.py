"""`rondel.run` and `rondel.Runner`: asyncio's own, with Rondel's loop where none is asked for.

Everything a runner does besides choosing the loop (Ctrl-C, cancelling what is left, shutting down generators and
the executor) is the running version's `asyncio.Runner`; nothing here is on the path of a callback.
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

# Taken now: `install()` later puts this module's classes where asyncio keeps its own.
_StockRunner = runners.Runner


class _RunnerClass(type):
    """After `install()`, who asks whether something is an `asyncio.Runner` means those that were made before as well."""

    def __instancecheck__(cls, instance: object) -> bool:
        return super().__instancecheck__(instance) or (cls is Runner and isinstance(instance, _StockRunner))


class Runner(_StockRunner, metaclass=_RunnerClass):  # type: ignore[misc]  # final to typeshed; at run time it is not
    """A context manager that makes an event loop, runs coroutines in it and closes it at the end.

    As `asyncio.Runner`; without a `loop_factory` the loop is a `rondel.EventLoop`.
    """

    def __init__(
        self,
        *,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        super().__init__(debug=debug, loop_factory=loop_factory or functools.partial(_default_loop, weakref.ref(self)))


def _default_loop(runner: "weakref.ref[Runner]") -> asyncio.AbstractEventLoop:
    """Make the loop of a runner that was given no factory. The runner keeps this, and must not be kept by it."""
    loop: asyncio.AbstractEventLoop = EventLoop()
    # asyncio makes the loop current in the thread when it chose it itself, and not when a factory was given;
    # the flag has the runner's close() undo that.
    events.set_event_loop(loop)
    vars(runner())["_set_event_loop"] = True
    return loop


def _refuse_within_a_loop() -> None:
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")


# Twice the same, rather than a function that both call: it would be one frame more in each traceback of a program.
if sys.version_info >= (3, 12):

    def run(
        main: Coroutine[Any, Any, _T],
        *,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> _T:
        """Run a coroutine in a new Rondel loop and return its result, as `asyncio.run` does."""
        _refuse_within_a_loop()
        with Runner(debug=debug, loop_factory=loop_factory) as runner:
            return runner.run(main)

else:

    def run(main: Coroutine[Any, Any, _T], *, debug: bool | None = None) -> _T:
        """Run a coroutine in a new Rondel loop and return its result, as `asyncio.run` does."""
        _refuse_within_a_loop()
        with Runner(debug=debug) as runner:
            return runner.run(main)
