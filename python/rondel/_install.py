"""`install` and `uninstall`: the package's names in place of asyncio's, and back.

`install` goes through asyncio and its loaded submodules and replaces each public name that Rondel has natively wherever
the stock object stands under that same name. What a program has patched before is left as it is. What was replaced is
remembered, and `uninstall` puts exactly that back.
"""

import asyncio
import asyncio.events
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType

from ._functions import is_asyncios, show_as_asyncios
from ._untouched import is_untouched

__all__ = ("install", "uninstall")

_replaced: list[tuple[ModuleType, str, object, object]] = []
_ABSENT = object()


def _is_stock(thing: object) -> bool:
    """Whether it is what asyncio has under a name, and not what a program, a tracer for one, has put there before."""
    if type(thing) is FunctionType:
        return is_asyncios(thing)
    if isinstance(thing, type) or type(thing) is BuiltinFunctionType:
        return str(thing.__module__).partition(".")[0] in ("asyncio", "_asyncio")
    return False


def _replace(module: ModuleType, name: str, new: object) -> None:
    _replaced.append((module, name, vars(module).get(name, _ABSENT), new))
    setattr(module, name, new)


def install() -> None:
    """Put Rondel's functions and classes in the place of asyncio's, for this process.

    Code that is imported later, and code that looks names up when it runs (`asyncio.run(...)`), gets Rondel's. Names
    that were copied before (`from asyncio import sleep`) stay as they are, as does what others have put in the place of
    asyncio's, and so do loops that already run. Where Python still has event loop policies, Rondel's becomes the current
    one. Installing twice is the same as once.
    """
    if _replaced:
        return
    ours = sys.modules["rondel"]
    holders = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "asyncio"]
    # The last two are for programs that have patched `asyncio.run`, say, and use `asyncio.runners.run`.
    for stock in (sys.modules["asyncio"], asyncio.runners, asyncio.streams):
        for name in stock.__all__:
            # By vars(), because asyncio's module __getattr__ warns for deprecated names.
            old, new = vars(stock).get(name), vars(ours).get(name)
            if not _is_stock(old) or not is_untouched(old) or new is None or new is old or isinstance(new, ModuleType):
                continue
            for holder in holders:
                if vars(holder).get(name) is old:
                    _replace(holder, name, new)
    show_as_asyncios(installed=True)
    policy = getattr(ours, "EventLoopPolicy", None)
    if policy is not None and hasattr(asyncio.events, "_event_loop_policy"):
        # What asyncio.set_event_loop_policy() does, which is deprecated from 3.14 on.
        _replace(asyncio.events, "_event_loop_policy", policy())


def uninstall() -> None:
    """Undo `install()`: every name it replaced is asyncio's again. What was changed by others since is left alone."""
    show_as_asyncios(installed=False)
    while _replaced:
        module, name, old, new = _replaced.pop()
        if vars(module).get(name, _ABSENT) is not new:
            continue
        if old is _ABSENT:
            delattr(module, name)
        else:
            setattr(module, name, old)
