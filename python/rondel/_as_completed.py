"""`as_completed` up to Python 3.12: a generator.

From 3.13 on, `as_completed` returns the native iterator.
"""

from collections.abc import Generator, Iterable
from typing import Any

from ._rondel import _as_completed


def as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Generator[Any, None, None]:
    """Iterate over awaitables, each of which gives the result of the next future that is done.

    Nothing starts before the first `next()`. `timeout` is in seconds and counts from there. An
    awaitable whose future is not done by then raises `TimeoutError`.
    """
    yield from _as_completed(fs, timeout=timeout)
