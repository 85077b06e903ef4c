"""`EventLoopPolicy`.

For programs that use asyncio's event loop policies (removed in Python 3.16).
"""

from asyncio import unix_events
from typing import TYPE_CHECKING, Any

from ._event_loop import EventLoop

if TYPE_CHECKING:
    from asyncio import DefaultEventLoopPolicy as _StockPolicy
else:
    # The public name is deprecated from 3.14 on, and importing Rondel must not warn.
    _StockPolicy: Any = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)

if _StockPolicy is not None:

    class EventLoopPolicy(_StockPolicy):
        """asyncio's default policy, but it creates `rondel.EventLoop`s."""

        _loop_factory = EventLoop
