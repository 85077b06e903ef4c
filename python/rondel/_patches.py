"""What programs have replaced in asyncio's classes, though Rondel's loop would not call it.

Profilers and tracers put a function of their own in the place of `asyncio.events.Handle._run`, or change the code of the one that
is there. The loop then runs handles by that function, and tasks and transports as handles.
"""

import asyncio
from asyncio import events
from typing import Any

from . import _rondel
from ._untouched import is_untouched

__all__ = ("look",)

_stock_class, _own_class = _rondel.Handle.__mro__[1], _rondel.Handle


def _run(self: Any) -> None:
    """Call the callback in its context."""
    _rondel.run_handle(self)


def _be_functions() -> None:
    """Tracers read the code of `Handle._run`, and call the function with handles of each class."""
    _run.__module__, _run.__qualname__ = events.__name__, "Handle._run"
    for handle_class in (_rondel.Handle, _rondel.TimerHandle):
        handle_class._run = _run  # type: ignore[method-assign]


_be_functions()
_stock_run: Any = vars(_stock_class)["_run"]
_stock_code = _stock_run.__code__ if is_untouched(_stock_run) else None
_own_code = _run.__code__


def look() -> None:
    """Have handles be run by what a program has put there; called when the classes have changed, and when a run begins."""
    # By getattr(), which gives the classes a version: it is what the native side looks at.
    stock, own = getattr(_stock_class, "_run", None), getattr(_own_class, "_run", None)
    if own is not _run or _run.__code__ is not _own_code:
        _rondel.set_handle_run(own)
    elif is_untouched(stock) and (stock is not _stock_run or stock.__code__ is _stock_code):
        _rondel.set_handle_run(None)
    else:
        _rondel.set_handle_run(stock)
    _look_at_create_task()


# `BaseEventLoop.create_task`, which tracers wrap to hand their context on. While it is theirs, loops create tasks by it.

_base_class: Any = asyncio.BaseEventLoop
_stock_create_task: Any = vars(_base_class)["create_task"]
_stock_create_task_code = _stock_create_task.__code__ if is_untouched(_stock_create_task) else None
_loop_class: Any = None
_native_create_task: Any = None


def watch(loop_class: Any) -> None:
    """Look after this class of loops from now on."""
    global _loop_class, _native_create_task
    _loop_class, _native_create_task = loop_class, vars(loop_class)["create_task"]


def _new_task(loop: Any, coro: Any, **kwargs: Any) -> Any:
    return _rondel.Task(coro, loop=loop, **kwargs)


def _create_task(self: Any, coro: Any, **kwargs: Any) -> Any:
    """Run a coroutine as a Task."""
    has_factory = self._task_factory is not None
    if not has_factory:
        # So that asyncio's method makes one of our tasks.
        self._task_factory = _new_task
    try:
        return _base_class.create_task(self, coro, **kwargs)
    finally:
        if not has_factory and self._task_factory is _new_task:
            self._task_factory = None


def _look_at_create_task() -> None:
    base = _base_class.create_task
    is_stock = is_untouched(base) and (base is not _stock_create_task or base.__code__ is _stock_create_task_code)
    current = vars(_loop_class)["create_task"] if _loop_class is not None else None
    if is_stock and current is _create_task:
        _loop_class.create_task = _native_create_task
    elif not is_stock and current is _native_create_task:
        _loop_class.create_task = _create_task
