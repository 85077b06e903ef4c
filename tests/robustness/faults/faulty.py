"""What can be made to fail, by `faults.c`."""

import ctypes
import os
from enum import IntEnum


class Call(IntEnum):
    """What can fail: the `enum kind` of `faults.c`."""

    RECEIVE = 0
    SEND = 1
    ACCEPT = 2
    CONNECT = 3
    MAKE = 4  # a socket, a pipe, an epoll instance: anything new
    WATCH = 5


class Faults:
    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["RONDEL_FAULTS"])
        self._library.faults_add.argtypes = [ctypes.c_int] * 3 + [ctypes.c_size_t] + [ctypes.c_int] * 2

    def fail(self, call: Call, error: int, *, fd: int = -1, after: int = 0, times: int = 1) -> None:
        """Have calls fail with an errno, `times` of them, when `after` have gone well."""
        assert self._library.faults_add(call, fd, error, 0, after, times) == 0

    def shorten(self, call: Call, most: int, *, fd: int) -> None:
        """Have calls take no more than so many bytes."""
        assert self._library.faults_add(call, fd, 0, most, 0, 1 << 30) == 0

    def clear(self) -> int:
        """Have all go well again; how many failures nobody has met."""
        return self._library.faults_clear()
