"""Creates pipe transports: a mixin for ``EventLoop``.

asyncio's ``connect_read_pipe`` and ``connect_write_pipe`` call the methods here, also for the
standard streams of subprocesses.
"""

from __future__ import annotations

from asyncio import ReadTransport, WriteTransport
from typing import TYPE_CHECKING, Any

from . import _rondel

if TYPE_CHECKING:
    from asyncio import SelectorEventLoop as _Base
else:
    _Base = object

__all__ = ("Pipes",)


class Pipes(_Base):
    """Creates native transports in place of those of asyncio's selector loop."""

    def _make_read_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: dict[str, Any] | None = None
    ) -> ReadTransport:
        return _rondel.make_read_pipe_transport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: dict[str, Any] | None = None
    ) -> WriteTransport:
        return _rondel.make_write_pipe_transport(self, pipe, protocol, waiter, extra)
