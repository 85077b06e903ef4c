"""Notices the exit of child processes: a mixin for ``EventLoop``.

`subprocess.Popen` starts a child, and its transport is asyncio's. This file adds a pidfd for each
child, watched by the loop's reactor. So no thread waits for a child, and only children of this loop
are waited for. The exit status is collected in the same step that tells the transport: until then
the kernel cannot reuse the PID.

A child watcher or an event loop policy that a program has set is used instead. If the kernel has no
pidfds, asyncio's watcher waits in a thread.
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

# How many turns pass between the child's exit and the call of `process_exited`. The child's last
# output is delivered in these turns.
_TURNS_BEFORE_EXIT_REPORT = 2 if sys.version_info < (3, 12) else 1 if sys.version_info < (3, 14) else 0

if sys.version_info >= (3, 12):
    _ALREADY_READ = "child process pid %d exit status already read:  will report returncode 255"
else:
    _ALREADY_READ = "Unknown child process pid %d, will report returncode 255"


if sys.version_info >= (3, 14):
    _ThreadedWatcher: Any = vars(unix_events)["_ThreadedChildWatcher"]
    _DefaultWatcher: Any = vars(unix_events)["_PidfdChildWatcher"]

    def _uses_default_watcher(loop: Any) -> bool:
        return type(loop._watcher) is _DefaultWatcher
else:
    _ThreadedWatcher = unix_events.ThreadedChildWatcher
    # On 3.11 asyncio's default watcher waits in a thread.
    _DefaultWatcher = unix_events.PidfdChildWatcher if sys.version_info >= (3, 12) else _ThreadedWatcher
    _get_watcher = events.get_child_watcher
    _get_watcher_of_policy = unix_events._UnixDefaultEventLoopPolicy.get_child_watcher

    def _uses_default_watcher(_: Any) -> bool:
        if events.get_child_watcher is not _get_watcher:
            return False
        policy: Any = events.get_event_loop_policy()
        if getattr(policy.get_child_watcher, "__func__", None) is not _get_watcher_of_policy:
            return False
        if policy._watcher is None:
            policy._init_watcher()
        return type(policy._watcher) is _DefaultWatcher


class _Child:
    """A running child process and its pidfd, which becomes readable when the child exits."""

    __slots__ = ("_fd", "_loop", "_transport")

    def __init__(self, loop: Subprocesses, transport: Any, fd: int) -> None:
        self._loop = loop
        self._transport = transport
        self._fd = fd

    def __del__(self) -> None:
        # The status was read, or the loop was closed and has dropped its readers.
        os.close(self._fd)

    def on_exit(self) -> None:
        self._loop._remove_reader(self._fd)  # type: ignore[attr-defined]
        self.report_after_turns(_TURNS_BEFORE_EXIT_REPORT)

    def report_after_turns(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self.report_after_turns, turns - 1)
        else:
            self._transport._process_exited(self._status())

    def _status(self) -> int:
        pid: int = self._transport._pid
        try:
            # By pidfd and not by PID. If other code has already waited for our child, the PID may
            # be that of another child.
            result = os.waitid(os.P_PIDFD, self._fd, os.WEXITED)
        except ChildProcessError:
            return self._status_read_elsewhere(pid)
        except OSError:  # Linux 5.3 has pidfds but no waitid(P_PIDFD)
            try:
                return unix_events.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # type: ignore[attr-defined, no-any-return]
            except ChildProcessError:
                return self._status_read_elsewhere(pid)
        if result is None:
            return self._status_read_elsewhere(pid)
        status: int = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        if sys.version_info < (3, 12) and self._loop.get_debug():
            logger.debug("process %s exited with returncode %s", pid, status)
        return status

    def _status_read_elsewhere(self, pid: int) -> int:
        process = self._transport._proc
        # `Popen.poll()` may have read it: the transport's own methods call that.
        if process is not None and process.returncode is not None:
            return process.returncode  # type: ignore[no-any-return]
        logger.warning(_ALREADY_READ, pid)
        return 255


class Subprocesses(_Base):
    """Watches child processes in the loop's reactor."""

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
        if not _uses_default_watcher(self):
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
            # From 3.14 on a second cancellation does not leave the child unreaped.
            waiting = transport._wait()
            await (tasks.shield(waiting) if sys.version_info >= (3, 14) else waiting)
            raise
        return transport  # type: ignore[no-any-return]

    def _watch_child(self, transport: Any) -> None:
        pid = transport.get_pid()
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            # It has exited and was already reaped: by a SIGCHLD handler, or by the kernel because
            # SIGCHLD is ignored.
            logger.warning(_ALREADY_READ, pid)
            self.call_soon(transport._process_exited, 255)
        except OSError:
            # The kernel has no pidfds (ENOSYS, EPERM), or no descriptor is left.
            callback = self._child_watcher_callback  # type: ignore[attr-defined]
            _ThreadedWatcher().add_child_handler(pid, callback, transport)
        else:
            child = _Child(self, transport, fd)
            self._add_reader(fd, child.on_exit)  # type: ignore[attr-defined]
