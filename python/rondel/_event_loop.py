"""``EventLoop``: the native core, completed by asyncio's own selector loop.

What runs per callback, per task step or per packet is native (``_rondel.LoopCore``). What runs once
per loop or per connection attempt, such as happy eyeballs, is asyncio's code of the running
version. That code uses the native parts through ``call_soon``, ``_add_reader`` and the like.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import weakref
from asyncio import events, tasks
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from . import _greenlets, _patches, _rondel
from ._connections import Connections
from ._datagrams import Datagrams
from ._functions import copy_names, install_in_class
from ._pipes import Pipes
from ._processes import Subprocesses
from ._ready import Ready
from ._resolver import Resolver
from ._selector import ReactorSelector
from ._signals import Signals, reset_wakeup_fd
from ._sockets import Sockets

__all__ = ("EventLoop", "new_event_loop")


_loops: weakref.WeakSet[EventLoop] = weakref.WeakSet()

_is_finalizing = sys.is_finalizing


class EventLoop(
    _rondel.LoopCore,
    Connections,
    Datagrams,
    Pipes,
    Resolver,
    Signals,
    Sockets,
    Subprocesses,
    asyncio.SelectorEventLoop,
):
    """An event loop, a drop-in for ``asyncio.SelectorEventLoop``."""

    def __init__(self, *, virtual_start: float | None = None) -> None:
        # `virtual_start` is for `_rondel.LoopCore.__new__`: it starts a virtual clock at that time.
        self._self_pipe_made = False
        self._wakeup_fd = -1
        self._resolver = None
        super().__init__(ReactorSelector(self))
        self._selector_changed(True)
        _loops.add(self)

    # ---- running ----

    def run_forever(self) -> None:
        """Run until ``stop()`` is called."""
        self._check_closed()
        self._check_running()  # type: ignore[attr-defined]
        self._set_coroutine_origin_tracking(self._debug)  # type: ignore[attr-defined]
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(
            firstiter=self._asyncgen_firstiter_hook,  # type: ignore[attr-defined]
            finalizer=self._asyncgen_finalizer_hook,  # type: ignore[attr-defined]
        )
        running = events._get_running_loop()
        try:
            events._set_running_loop(self)
            self._install_wakeup_fd()
            _patches.look()
            if "gevent" in sys.modules:
                _greenlets.cooperate(self)
            self._run()
        finally:
            self._stopping = False
            events._set_running_loop(running)
            self._set_coroutine_origin_tracking(False)  # type: ignore[attr-defined]
            sys.set_asyncgen_hooks(*hooks)
            self._remove_wakeup_fd()

    @property
    def _ready(self) -> Any:
        return Ready(self)

    @_ready.setter
    def _ready(self, value: Any) -> None:
        pass  # asyncio's __init__ sets a deque, which is not used

    def __del__(self) -> None:
        try:
            super().__del__()
        except AttributeError:
            # During interpreter shutdown the globals of asyncio's modules may be None already.
            if not _is_finalizing():
                raise

    def close(self) -> None:
        """Close the loop: drop queued callbacks, close the loop's own descriptors."""
        was_closed = self.is_closed()
        super().close()
        if not was_closed:
            # A KeyboardInterrupt may have kept `run_forever` from it.
            self._remove_wakeup_fd()
            self._close_core()

    def set_debug(self, enabled: bool) -> None:
        """Switch debug mode on or off."""
        self._debug = enabled
        if self.is_running():
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)  # type: ignore[attr-defined]


def new_event_loop() -> EventLoop:
    """Return a new event loop, for ``asyncio.run(main(), loop_factory=rondel.new_event_loop)``."""
    return EventLoop()


def _install_native_attributes() -> None:
    """Have the native core store the attributes that asyncio's `__init__` methods set.

    See `event_loop/attributes.rs`.
    """
    for base in EventLoop.__mro__[1:]:
        init = vars(base).get("__init__")
        if isinstance(init, FunctionType):
            for name in init.__code__.co_names:
                if (name[0] == "_" or name == "slow_callback_duration") and not hasattr(EventLoop, name):
                    setattr(EventLoop, name, _rondel.LoopAttribute(name))
    for name in ("_self_pipe_made", "_wakeup_fd", "_kept_ssock", "_kept_csock", "_resolver"):
        setattr(EventLoop, name, _rondel.LoopAttribute(name))


_install_native_attributes()
_rondel.bind_methods(EventLoop)
install_in_class(EventLoop, asyncio.SelectorEventLoop)
copy_names(EventLoop, asyncio.SelectorEventLoop)
_rondel.note_methods(EventLoop)
_patches.watch(EventLoop)


def _reset_after_fork() -> None:
    """In the child of a fork: stop using the descriptors that its loops share with the parent's."""
    for loop in list(_loops):
        loop._forked()
    if sys.version_info < (3, 12):
        # Later versions of asyncio do that.
        reset_wakeup_fd(list(_loops))


def _before_fork() -> None:
    """Before a fork: send what the running turn has written, and stop the monitor's thread.

    Unsent data would be sent twice if the child, too, went on with the loop.
    """
    loop = asyncio._get_running_loop()
    if isinstance(loop, EventLoop):
        loop._flush_written()
    # The child would not have the thread, and the interpreter warns when a process with several
    # threads forks.
    _rondel.stop_monitor()


atexit.register(_rondel.end_monitor)
os.register_at_fork(before=_before_fork, after_in_child=_reset_after_fork)


class _AllTasks(weakref.WeakSet[Any]):
    """asyncio's set of all tasks, with our tasks, which are in lists of their loops."""

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        for loop in list(_loops):
            yield from loop._tasks()

    def __len__(self) -> int:
        return super().__len__() + sum(len(loop._tasks()) for loop in list(_loops))

    def discard(self, item: Any) -> None:
        super().discard(item)
        _rondel.forget_task(item)

    def __contains__(self, item: object) -> bool:
        return super().__contains__(item) or any(item in loop._tasks() for loop in list(_loops))


def _show_tasks() -> None:
    """Have asyncio's set of all tasks show ours; if it is not the known one, put ours into it."""
    if sys.version_info < (3, 14):
        name = "_all_tasks" if sys.version_info < (3, 12) else "_scheduled_tasks"
        known = getattr(tasks, name, None)
        # A program's own subclass has a reason, which ours would not know.
        if type(known) is weakref.WeakSet:
            known.__class__ = _AllTasks
        else:
            _rondel.register_with_asyncio()


_show_tasks()
