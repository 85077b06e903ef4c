"""Receiving from plain sockets: a mixin for ``EventLoop``.

asyncio receives in the reader callback and passes the data to the task by a future. If the task is
cancelled in between, the data is lost. Here the callback only wakes the task, and the task
receives: data that was not returned is still in the socket.
"""

from __future__ import annotations

import functools
import socket
from asyncio import base_events
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import Future
    from asyncio import SelectorEventLoop as _Base
else:
    _Base = object

__all__ = ("Sockets",)

_check_ssl_socket: Any = vars(base_events)["_check_ssl_socket"]


def _wake(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Sockets(_Base):
    """``sock_recv`` and its variants, and ``sock_accept``."""

    def _check_socket(self, sock: socket.socket) -> None:
        _check_ssl_socket(sock)
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    def _readable(self, sock: socket.socket) -> Future[None]:
        """Return a future that is done when the socket is readable."""
        future = self.create_future()
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)  # type: ignore[attr-defined]
        handle = self._add_reader(fd, _wake, future)  # type: ignore[attr-defined]
        done = self._sock_read_done  # type: ignore[attr-defined]
        future.add_done_callback(functools.partial(done, fd, handle=handle))
        return future

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive up to `n` bytes."""
        self._check_socket(sock)
        while True:
            try:
                return sock.recv(n)
            except (BlockingIOError, InterruptedError):
                pass
            await self._readable(sock)

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        """Receive into `buf`; return how many bytes came."""
        self._check_socket(sock)
        while True:
            try:
                return sock.recv_into(buf)
            except (BlockingIOError, InterruptedError):
                pass
            await self._readable(sock)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of up to `bufsize` bytes, and the address it came from."""
        self._check_socket(sock)
        while True:
            try:
                return sock.recvfrom(bufsize)
            except (BlockingIOError, InterruptedError):
                pass
            await self._readable(sock)

    async def sock_recvfrom_into(self, sock: socket.socket, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        """Receive a datagram into `buf`; return how many bytes came, and from where."""
        self._check_socket(sock)
        if not nbytes:
            nbytes = len(buf)
        while True:
            try:
                return sock.recvfrom_into(buf, nbytes)
            except (BlockingIOError, InterruptedError):
                pass
            await self._readable(sock)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection; return its socket, which is non-blocking, and the peer's address."""
        self._check_socket(sock)
        while True:
            try:
                connection, address = sock.accept()
                connection.setblocking(False)
            except (BlockingIOError, InterruptedError):
                pass
            else:
                return connection, address
            await self._readable(sock)
