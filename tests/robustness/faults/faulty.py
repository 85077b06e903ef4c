"""Makes system calls fail, by `faults.c`."""

import ctypes
import os
from enum import IntEnum


class Call(IntEnum):
    """The kinds of calls that can fail: `enum kind` of `faults.c`."""

    RECEIVE = 0
    SEND = 1
    ACCEPT = 2
    CONNECT = 3
    MAKE = 4  # creating a socket, a pipe, an epoll instance, or the like
    WATCH = 5


class Faults:
    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["RONDEL_FAULTS"])
        self._library.faults_add.argtypes = [ctypes.c_int] * 3 + [ctypes.c_size_t] + [ctypes.c_int] * 2

    def fail(self, call: Call, error: int, *, fd: int = -1, after: int = 0, times: int = 1) -> None:
        """Make `times` calls fail with an errno, after `after` successful ones."""
        assert self._library.faults_add(call, fd, error, 0, after, times) == 0

    def shorten(self, call: Call, most: int, *, fd: int) -> None:
        """Make calls accept no more than so many bytes."""
        assert self._library.faults_add(call, fd, 0, most, 0, 1 << 30) == 0

    def clear(self) -> int:
        """Let all calls succeed again; return the number of failures that did not happen."""
        return self._library.faults_clear()
