"""Supports programs that patch methods of asyncio that Rondel's loop would not call.

Profilers and tracers replace `asyncio.events.Handle._run`, or its `__code__`. The loop then runs
each handle through that function, and wraps task steps and transport events in handles.
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


def _install_run_function() -> None:
    """Make `_run` a Python function.

    Tracers read its code, and call it with handles of either class.
    """
    _run.__module__, _run.__qualname__ = events.__name__, "Handle._run"
    for handle_class in (_rondel.Handle, _rondel.TimerHandle):
        handle_class._run = _run  # type: ignore[method-assign]


_install_run_function()
_stock_run: Any = vars(_stock_class)["_run"]
_stock_code = _stock_run.__code__ if is_untouched(_stock_run) else None
_own_code = _run.__code__


def look() -> None:
    """Find out which `_run` runs handles.

    Called when a class has changed, and when the loop starts.
    """
    # getattr() assigns the classes a version tag. Native code compares the tag to notice changes.
    stock, own = getattr(_stock_class, "_run", None), getattr(_own_class, "_run", None)
    if own is not _run or _run.__code__ is not _own_code:
        _rondel.set_handle_run(own)
    elif is_untouched(stock) and (stock is not _stock_run or stock.__code__ is _stock_code):
        _rondel.set_handle_run(None)
    else:
        _rondel.set_handle_run(stock)
    _apply_create_task()


# Tracers wrap `BaseEventLoop.create_task` to pass their context on. Then loops call the wrapper.

_base_class: Any = asyncio.BaseEventLoop
_stock_create_task: Any = vars(_base_class)["create_task"]
_stock_create_task_code = _stock_create_task.__code__ if is_untouched(_stock_create_task) else None
_loop_class: Any = None
_native_create_task: Any = None


def watch(loop_class: Any) -> None:
    """Set the class of loops whose `create_task` follows patches of asyncio's."""
    global _loop_class, _native_create_task
    _loop_class, _native_create_task = loop_class, vars(loop_class)["create_task"]


def _new_task(loop: Any, coro: Any, **kwargs: Any) -> Any:
    return _rondel.Task(coro, loop=loop, **kwargs)


def _create_task(self: Any, coro: Any, **kwargs: Any) -> Any:
    """Run a coroutine as a Task."""
    has_factory = self._task_factory is not None
    if not has_factory:
        # Makes asyncio's method create one of our tasks.
        self._task_factory = _new_task
    try:
        return _base_class.create_task(self, coro, **kwargs)
    finally:
        if not has_factory and self._task_factory is _new_task:
            self._task_factory = None


def _apply_create_task() -> None:
    base = _base_class.create_task
    is_stock = is_untouched(base) and (base is not _stock_create_task or base.__code__ is _stock_create_task_code)
    current = vars(_loop_class)["create_task"] if _loop_class is not None else None
    if is_stock and current is _create_task:
        _loop_class.create_task = _native_create_task
    elif not is_stock and current is _native_create_task:
        _loop_class.create_task = _create_task
