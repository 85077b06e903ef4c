"""Signals: a mixin for ``EventLoop``.

The interpreter's handler in C only notes a signal; the program's handler runs when the main thread gets to it. A main thread that
waits for events gets to it if the signal has interrupted the wait. It has not if another thread took the signal, or if the
signal came after the loop's last look and before the wait: asyncio then waits for something else to happen, and Ctrl-C seems
to be ignored. So a loop that the main thread runs has the interpreter write to a descriptor (``signal.set_wakeup_fd``) that
ends the wait.
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

__all__ = ("Signals", "forget_wakeup_of")

_Ts = TypeVarTuple("_Ts")


class Signals(_Base):
    """``add_signal_handler`` and ``remove_signal_handler``, and signals that wake the loop."""

    _signal_handlers: dict[int, Any]
    _self_pipe_made: bool
    _selector: Any
    _wakeup_fd: int
    _kept_ssock: Any
    _kept_csock: Any

    # What asyncio calls the self-pipe has one purpose here: it tells the loop which of its own handlers to call. The engine wakes
    # itself. `_self_pipe_made` is set in `EventLoop.__init__`, before asyncio's own asks for the pipe.

    def _make_self_pipe(self) -> None:
        if self._self_pipe_made:
            super()._make_self_pipe()  # type: ignore[misc]
        else:
            self._kept_ssock = self._kept_csock = None

    # Whoever asks for its ends, as asyncio's own `add_signal_handler` does if it is called on its class, has the pipe made.

    @property
    def _ssock(self) -> Any:
        self._need_self_pipe()
        return self._kept_ssock

    @_ssock.setter
    def _ssock(self, value: Any) -> None:
        self._kept_ssock = value

    @property
    def _csock(self) -> Any:
        self._need_self_pipe()
        return self._kept_csock

    @_csock.setter
    def _csock(self, value: Any) -> None:
        self._kept_csock = value

    def _need_self_pipe(self) -> None:
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
            # A closed loop that a program has opened again, by its attribute: asyncio fails here.
            super()._close_self_pipe()  # type: ignore[misc]

    def add_signal_handler(self, sig: int, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts) -> None:
        """Have the loop call `callback(*args)` for a signal. Only in the main thread."""
        self._need_self_pipe()
        try:
            super().add_signal_handler(sig, callback, *args)
        except BaseException:
            self._be_woken_again()
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """End what `add_signal_handler` began; return whether there was a handler."""
        removed = super().remove_signal_handler(sig)
        self._be_woken_again()
        return removed

    # ---- while the loop runs ----

    def _be_woken_by_signals(self) -> None:
        """Have signals wake the loop, unless they write to a descriptor already."""
        # With handlers of its own they write to the self-pipe, which is the loop's as well.
        if threading.current_thread() is not threading.main_thread() or self._signal_handlers:
            return
        try:
            fd: int = self._signal_fd()  # type: ignore[attr-defined]
        except OSError:
            return  # no descriptor left: as with asyncio, then
        self._wakeup_fd = fd  # first: what comes next may be interrupted by a signal
        before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        if before not in (-1, fd):
            signal.set_wakeup_fd(before)
            self._wakeup_fd = -1

    def _be_woken_again(self) -> None:
        """asyncio has taken the descriptor back with the last of the loop's handlers."""
        if self.is_running():
            self._be_woken_by_signals()

    def _be_woken_no_more(self) -> None:
        """Take back what is still there. The program may have put a descriptor of its own in its place."""
        if self._wakeup_fd != -1:
            try:
                now = signal.set_wakeup_fd(-1)
            except ValueError:
                return  # not in a thread that may
            if now not in (-1, self._wakeup_fd):
                signal.set_wakeup_fd(now)
            self._wakeup_fd = -1


def forget_wakeup_of(loops: Iterable[Signals]) -> None:
    """In the child of a fork: its signals would come to the parent's loops."""
    ours = {-1}
    for event_loop in loops:
        ours.add(event_loop._wakeup_fd)
        if event_loop._kept_csock is not None:
            ours.add(event_loop._kept_csock.fileno())
    try:
        fd = signal.set_wakeup_fd(-1)
    except ValueError:
        return  # not in a thread that may
    if fd not in ours:
        signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
