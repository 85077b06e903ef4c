"""Looking at a socket past Python's own functions, before which Rondel sends what waits."""

import ctypes
import os
import socket

_libc = ctypes.CDLL(None, use_errno=True)


def received_unseen(peer: socket.socket, size: int = 1 << 16) -> bytes:
    """What has come, without waiting: by the C library, as other libraries do it."""
    buffer = ctypes.create_string_buffer(size)
    count = _libc.recv(peer.fileno(), buffer, size, socket.MSG_DONTWAIT)
    return buffer.raw[: max(count, 0)]


def read_unseen(fd: int) -> bytes:
    """As `received_unseen`, of a pipe that does not block."""
    assert not os.get_blocking(fd)
    buffer = ctypes.create_string_buffer(1 << 16)
    count = _libc.read(fd, buffer, 1 << 16)
    return buffer.raw[: max(count, 0)]


def waits_unseen(fd: int) -> bool:
    """Whether something has come that is to be received."""
    buffer = ctypes.create_string_buffer(1)
    return bool(_libc.recv(fd, buffer, 1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == 1)
