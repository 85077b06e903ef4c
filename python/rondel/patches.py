"""What programs have replaced in asyncio's classes, though Rondel's loop would not call it.

Profilers and tracers put a function of their own in the place of `asyncio.events.Handle._run`, or change the code of the one that
is there. The loop then runs handles by that function, and tasks and transports as handles.
"""

from asyncio import events
from types import FunctionType
from typing import Any

from . import _rondel

__all__ = ("look",)

_stock_class, _own_class = _rondel.Handle.__mro__[1], _rondel.Handle


def _run(self: Any) -> None:
    """Call the callback in its context."""
    _rondel.run_handle(self)


def _is_asyncios(function: Any) -> bool:
    """Whether it is the function that asyncio's file has. A program may have replaced it before Rondel was imported."""
    return (
        type(function) is FunctionType
        and not vars(function)
        and function.__code__.co_filename == events.AbstractEventLoop.close.__code__.co_filename
        and function.__code__.co_name == "_run"
    )


def _be_functions() -> None:
    """Tracers read the code of `Handle._run`, and call the function with handles of each class."""
    _run.__module__, _run.__qualname__ = events.__name__, "Handle._run"
    for handle_class in (_rondel.Handle, _rondel.TimerHandle):
        handle_class._run = _run  # type: ignore[method-assign]


_be_functions()
_stock_run: Any = vars(_stock_class)["_run"]
_stock_code = _stock_run.__code__ if _is_asyncios(_stock_run) else None
_own_code = _run.__code__


def look() -> None:
    """Have handles be run by what a program has put there; called when the classes have changed, and when a run begins."""
    # By getattr(), which gives the classes a version: it is what the native side looks at.
    stock, own = getattr(_stock_class, "_run", None), getattr(_own_class, "_run", None)
    if own is not _run or _run.__code__ is not _own_code:
        _rondel.set_handle_run(own)
    elif _is_asyncios(stock) and (stock is not _stock_run or stock.__code__ is _stock_code):
        _rondel.set_handle_run(None)
    else:
        _rondel.set_handle_run(stock)
