"""Signals: a mixin for ``EventLoop``.

The interpreter's C handler only notes a signal. The program's Python handler runs later, in the
main thread. If the main thread waits for events, it runs the handler only after the signal has
interrupted the wait. A signal does not interrupt the wait if the kernel delivers it to another
thread, or if it arrives just before the wait. Then stock asyncio keeps waiting until something else
happens, and Ctrl-C seems to be ignored. So when the main thread runs a loop of ours, the
interpreter writes to a descriptor that ends the wait (``signal.set_wakeup_fd``).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from asyncio import SelectorEventLoop as _Base
else:
    _Base = object

__all__ = ("Signals", "reset_wakeup_fd")

_Ts = TypeVarTuple("_Ts")


class Signals(_Base):
    """Signal handlers, and the descriptor by which signals wake the loop."""

    _signal_handlers: dict[int, Any]
    _self_pipe_made: bool
    _selector: Any
    _wakeup_fd: int
    _kept_ssock: Any
    _kept_csock: Any

    # asyncio wakes the loop by its self-pipe; our engine does not need it. Here the self-pipe only
    # tells the loop which of its signal handlers to call, so it is created when needed. asyncio's
    # `__init__` calls `_make_self_pipe`; `EventLoop.__init__` has set `_self_pipe_made` to False
    # before that.

    def _make_self_pipe(self) -> None:
        if self._self_pipe_made:
            super()._make_self_pipe()  # type: ignore[misc]
        else:
            self._kept_ssock = self._kept_csock = None

    # Reading an end creates the pipe. asyncio's `add_signal_handler` does that when a program calls
    # it as a function of asyncio's class.

    @property
    def _ssock(self) -> Any:
        self._ensure_self_pipe()
        return self._kept_ssock

    @_ssock.setter
    def _ssock(self, value: Any) -> None:
        self._kept_ssock = value

    @property
    def _csock(self) -> Any:
        self._ensure_self_pipe()
        return self._kept_csock

    @_csock.setter
    def _csock(self, value: Any) -> None:
        self._kept_csock = value

    def _ensure_self_pipe(self) -> None:
        if self.is_running() and self._thread_id != threading.get_ident():  # type: ignore[attr-defined]
            return
        if not self._self_pipe_made and not self.is_closed():
            self._self_pipe_made = True
            try:
                self._make_self_pipe()
            except BaseException:
                self._self_pipe_made = False
                raise

    def _close_self_pipe(self) -> None:
        if self._self_pipe_made:
            super()._close_self_pipe()  # type: ignore[misc]
            self._self_pipe_made = False
        elif self._selector is None:
            # A program has reopened a closed loop by resetting `_closed`: asyncio's method raises.
            super()._close_self_pipe()  # type: ignore[misc]

    def add_signal_handler(self, sig: int, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts) -> None:
        """Make the loop call `callback(*args)` when a signal arrives. Only in the main thread."""
        self._ensure_self_pipe()
        try:
            super().add_signal_handler(sig, callback, *args)
        except BaseException:
            self._reinstall_wakeup_fd()
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove the handler for a signal; return whether there was one."""
        removed = super().remove_signal_handler(sig)
        self._reinstall_wakeup_fd()
        return removed

    # ---- while the loop runs ----

    def _install_wakeup_fd(self) -> None:
        """Make signals wake the loop, unless the program has set a wakeup descriptor."""
        # A loop with signal handlers has set its self-pipe as the wakeup descriptor.
        if threading.current_thread() is not threading.main_thread() or self._signal_handlers:
            return
        try:
            fd: int = self._signal_fd()  # type: ignore[attr-defined]
        except OSError:
            return  # no descriptor left: signals then behave as with asyncio
        self._wakeup_fd = fd  # set first, because a signal may interrupt the next line
        before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        if before not in (-1, fd):
            signal.set_wakeup_fd(before)
            self._wakeup_fd = -1

    def _reinstall_wakeup_fd(self) -> None:
        """Set the wakeup descriptor again: asyncio resets it with the last handler."""
        if self.is_running():
            self._install_wakeup_fd()

    def _remove_wakeup_fd(self) -> None:
        """Reset the wakeup descriptor, unless the program has set one of its own meanwhile."""
        if self._wakeup_fd != -1:
            try:
                now = signal.set_wakeup_fd(-1)
            except ValueError:
                return  # only the main thread may set it
            if now not in (-1, self._wakeup_fd):
                signal.set_wakeup_fd(now)
            self._wakeup_fd = -1


def reset_wakeup_fd(loops: Iterable[Signals]) -> None:
    """In the child of a fork: stop writing its signals to descriptors of the parent's loops."""
    ours = {-1}
    for event_loop in loops:
        ours.add(event_loop._wakeup_fd)
        if event_loop._kept_csock is not None:
            ours.add(event_loop._kept_csock.fileno())
    try:
        fd = signal.set_wakeup_fd(-1)
    except ValueError:
        return  # only the main thread may set it
    if fd not in ours:
        signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
