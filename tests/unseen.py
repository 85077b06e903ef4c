"""Reads sockets and pipes by calls of the C library, which Rondel does not notice.

When a program calls Python's own functions, Rondel sends its buffered data first.
"""

import ctypes
import os
import socket

_libc = ctypes.CDLL(None, use_errno=True)


def received_unseen(peer: socket.socket, size: int = 1 << 16) -> bytes:
    """Return the data that has arrived, without blocking."""
    buffer = ctypes.create_string_buffer(size)
    count = _libc.recv(peer.fileno(), buffer, size, socket.MSG_DONTWAIT)
    return buffer.raw[: max(count, 0)]


def read_unseen(fd: int) -> bytes:
    """Like `received_unseen`, for a non-blocking pipe."""
    assert not os.get_blocking(fd)
    buffer = ctypes.create_string_buffer(1 << 16)
    count = _libc.read(fd, buffer, 1 << 16)
    return buffer.raw[: max(count, 0)]


def waits_unseen(fd: int) -> bool:
    """Whether data has arrived."""
    buffer = ctypes.create_string_buffer(1)
    return bool(_libc.recv(fd, buffer, 1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == 1)
