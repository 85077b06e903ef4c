"""The future that `gather` returns; `gather` itself is native."""

from asyncio import tasks
from typing import Any

from ._rondel import Future

# Taken now: `install()` later puts the native one where asyncio keeps its own.
_stock_gather = tasks.gather


class _GatheringFuture(Future[Any]):
    """As asyncio's: `cancel()` cancels the children, and the future is done when they are."""

    def __init__(self, children: list[Any], *, loop: Any) -> None:
        super().__init__(loop=loop)
        self._children = children
        self._cancel_requested = False

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        requested = False
        for child in self._children:
            if child.cancel(msg=msg):
                requested = True
        if requested:
            # Propagated whatever `return_exceptions` says, once the children are done.
            self._cancel_requested = True
        return requested
