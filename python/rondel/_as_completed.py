"""`as_completed` as it is up to Python 3.12: a generator. From 3.13 on the native iterator is what `as_completed` returns."""

from collections.abc import Generator, Iterable
from typing import Any

from ._rondel import _as_completed


def as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Generator[Any, None, None]:
    """Iterate over awaitables, each of which gives the result of the next future that is done.

    Nothing is started before the first one is asked for. `timeout` is in seconds, from then on; whoever awaits what is
    not done by then gets a `TimeoutError`.
    """
    yield from _as_completed(fs, timeout=timeout)
