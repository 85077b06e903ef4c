"""How the loop learns that a child process has ended: a mixin for ``EventLoop``.

Starting a child is `subprocess.Popen`'s work and its transport asyncio's own; what is added here is a pidfd in the loop's
reactor for each child, which is read once. No thread waits for a child, none is waited for but our own, and the status
is collected in the step that tells the transport: until then nobody else can have got the child's number.

Whoever set a child watcher or an event loop policy of their own keeps it, and where the kernel gives no pidfd asyncio's
watcher waits in a thread.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio import events, tasks, unix_events
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import SelectorEventLoop as _Base
else:
    _Base = object

__all__ = ("Subprocesses",)

_Transport: Any = vars(unix_events)["_UnixSubprocessTransport"]

# How many turns lie between the child's end and the call of `process_exited`: what its pipes bring in them comes first.
_TURNS_TO_WAIT = 2 if sys.version_info < (3, 12) else 1 if sys.version_info < (3, 14) else 0

if sys.version_info >= (3, 12):
    _ALREADY_READ = "child process pid %d exit status already read:  will report returncode 255"
else:
    _ALREADY_READ = "Unknown child process pid %d, will report returncode 255"


if sys.version_info >= (3, 14):
    _ThreadedWatcher: Any = vars(unix_events)["_ThreadedChildWatcher"]
    _DefaultWatcher: Any = vars(unix_events)["_PidfdChildWatcher"]

    def _watches_itself(loop: Any) -> bool:
        return type(loop._watcher) is _DefaultWatcher
else:
    _ThreadedWatcher = unix_events.ThreadedChildWatcher
    # On 3.11 asyncio waits in a thread unless it is told otherwise.
    _DefaultWatcher = unix_events.PidfdChildWatcher if sys.version_info >= (3, 12) else _ThreadedWatcher
    _get_watcher = events.get_child_watcher
    _get_watcher_of_policy = unix_events._UnixDefaultEventLoopPolicy.get_child_watcher

    def _watches_itself(_: Any) -> bool:
        if events.get_child_watcher is not _get_watcher:
            return False
        policy: Any = events.get_event_loop_policy()
        if getattr(policy.get_child_watcher, "__func__", None) is not _get_watcher_of_policy:
            return False
        if policy._watcher is None:
            policy._init_watcher()
        return type(policy._watcher) is _DefaultWatcher


class _Child:
    """A child that runs, and the descriptor that says when it does not any more."""

    __slots__ = ("_fd", "_loop", "_transport")

    def __init__(self, loop: Subprocesses, transport: Any, fd: int) -> None:
        self._loop = loop
        self._transport = transport
        self._fd = fd

    def __del__(self) -> None:
        # The loop was closed and has let go of what it watched, or the status was read.
        os.close(self._fd)

    def ended(self) -> None:
        self._loop._remove_reader(self._fd)  # type: ignore[attr-defined]
        self.report_after(_TURNS_TO_WAIT)

    def report_after(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self.report_after, turns - 1)
        else:
            self._transport._process_exited(self._status())

    def _status(self) -> int:
        pid: int = self._transport._pid
        try:
            # By the descriptor and not by the number: that may be another child's, if somebody has waited for ours.
            result = os.waitid(os.P_PIDFD, self._fd, os.WEXITED)
        except ChildProcessError:
            return self._status_read_by_others(pid)
        except OSError:  # Linux 5.3 has pidfds but can't wait for them
            try:
                return unix_events.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # type: ignore[attr-defined, no-any-return]
            except ChildProcessError:
                return self._status_read_by_others(pid)
        if result is None:
            return self._status_read_by_others(pid)
        status: int = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        if sys.version_info < (3, 12) and self._loop.get_debug():
            logger.debug("process %s exited with returncode %s", pid, status)
        return status

    def _status_read_by_others(self, pid: int) -> int:
        process = self._transport._proc
        # `Popen.poll()` may have it, which the transport's own methods call.
        if process is not None and process.returncode is not None:
            return process.returncode  # type: ignore[no-any-return]
        logger.warning(_ALREADY_READ, pid)
        return 255


class Subprocesses(_Base):
    """Watches children in the loop's own reactor."""

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> asyncio.SubprocessTransport:
        streams = stdin, stdout, stderr
        if not _watches_itself(self):
            make = super()._make_subprocess_transport  # type: ignore[misc]
            return await make(protocol, args, shell, *streams, bufsize, extra, **kwargs)  # type: ignore[no-any-return]
        connected = self.create_future()
        transport = _Transport(self, protocol, args, shell, *streams, bufsize, waiter=connected, extra=extra, **kwargs)
        self._watch_child(transport)
        try:
            await connected
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            # From 3.14 on who cancels once more does not leave the child unwaited for.
            waiting = transport._wait()
            await (tasks.shield(waiting) if sys.version_info >= (3, 14) else waiting)
            raise
        return transport  # type: ignore[no-any-return]

    def _watch_child(self, transport: Any) -> None:
        pid = transport.get_pid()
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            # It has ended, and somebody has waited for it already: a SIGCHLD handler, or the kernel if SIGCHLD is ignored.
            logger.warning(_ALREADY_READ, pid)
            self.call_soon(transport._process_exited, 255)
        except OSError:
            # No pidfds here (ENOSYS, EPERM), or no descriptor left: a thread needs none.
            callback = self._child_watcher_callback  # type: ignore[attr-defined]
            _ThreadedWatcher().add_child_handler(pid, callback, transport)
        else:
            child = _Child(self, transport, fd)
            self._add_reader(fd, child.ended)  # type: ignore[attr-defined]
