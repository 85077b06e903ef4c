"""`install` and `uninstall`: replace asyncio's functions and classes by Rondel's, and undo it.

`install` replaces the public names that Rondel implements, in asyncio and in all its loaded
submodules that have the stock object under the same name. Objects that a program has patched before
are left alone. `uninstall` restores exactly what `install` replaced.
"""

import asyncio
import asyncio.events
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType

from ._functions import is_asyncio_function, set_reported_modules
from ._untouched import is_untouched

__all__ = ("install", "uninstall")

_replaced: list[tuple[ModuleType, str, object, object]] = []
_ABSENT = object()


def _is_stock(thing: object) -> bool:
    """Whether it is asyncio's own object, and not a program's (a tracer's, say) replacement."""
    if type(thing) is FunctionType:
        return is_asyncio_function(thing)
    if isinstance(thing, type) or type(thing) is BuiltinFunctionType:
        return str(thing.__module__).partition(".")[0] in ("asyncio", "_asyncio")
    return False


def _replace(module: ModuleType, name: str, new: object) -> None:
    _replaced.append((module, name, vars(module).get(name, _ABSENT), new))
    setattr(module, name, new)


def install() -> None:
    """Replace asyncio's functions and classes by Rondel's, in this process.

    Code that is imported later, and code that looks names up when it runs (`asyncio.run(...)`),
    gets Rondel's. Names that were copied before (`from asyncio import sleep`) do not change, nor do
    objects that others have put in the place of asyncio's, nor running loops. Where Python still
    has event loop policies, Rondel's becomes the current one. Installing twice has no further
    effect.
    """
    if _replaced:
        return
    ours = sys.modules["rondel"]
    holders = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "asyncio"]
    # The last two are for programs that have patched `asyncio.run`, say, and call
    # `asyncio.runners.run`.
    for stock in (sys.modules["asyncio"], asyncio.runners, asyncio.streams):
        for name in stock.__all__:
            # By vars(), because asyncio's module __getattr__ warns for deprecated names.
            old, new = vars(stock).get(name), vars(ours).get(name)
            if not _is_stock(old) or not is_untouched(old) or new is None or new is old or isinstance(new, ModuleType):
                continue
            for holder in holders:
                if vars(holder).get(name) is old:
                    _replace(holder, name, new)
    set_reported_modules(installed=True)
    policy = getattr(ours, "EventLoopPolicy", None)
    if policy is not None and hasattr(asyncio.events, "_event_loop_policy"):
        # What asyncio.set_event_loop_policy() does, which is deprecated from 3.14 on.
        _replace(asyncio.events, "_event_loop_policy", policy())


def uninstall() -> None:
    """Undo `install()`: restore every name it replaced, unless other code has changed it since."""
    set_reported_modules(installed=False)
    while _replaced:
        module, name, old, new = _replaced.pop()
        if vars(module).get(name, _ABSENT) is not new:
            continue
        if old is _ABSENT:
            delattr(module, name)
        else:
            setattr(module, name, old)
