"""`EventLoopPolicy`: Rondel's loops for programs that go through asyncio's policies (gone after Python 3.15)."""

from asyncio import unix_events
from typing import TYPE_CHECKING, Any

from ._event_loop import EventLoop

if TYPE_CHECKING:
    from asyncio import DefaultEventLoopPolicy as _StockPolicy
else:
    # The public name warns from 3.14 on, and importing Rondel must not.
    _StockPolicy: Any = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)

if _StockPolicy is not None:

    class EventLoopPolicy(_StockPolicy):
        """asyncio's default policy, except that the loops it makes are `rondel.EventLoop`."""

        _loop_factory = EventLoop
