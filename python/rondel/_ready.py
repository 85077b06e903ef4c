"""`loop._ready`: the loop's native ready queue, with the interface of asyncio's deque.

The operations that `_run_once` uses (asyncio's, or a program's own) work on the queue directly: its
length, taking the first handle, adding a handle at either end. All other operations take all
handles out and put them back.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ._event_loop import EventLoop

__all__ = ("Ready",)

_T = TypeVar("_T")


class Ready(MutableSequence[Any]):
    """The handles that run in the loop's next turn."""

    def __init__(self, loop: "EventLoop") -> None:
        self._loop = weakref.ref(loop)

    def _open_loop(self) -> "EventLoop":
        loop = self._loop()
        if loop is None:
            raise RuntimeError("the loop is gone")
        return loop

    def __len__(self) -> int:
        return self._open_loop()._ready_len()

    def popleft(self) -> Any:
        """Take the first handle."""
        handle = self._open_loop()._take_ready()
        if handle is None:
            raise IndexError("pop from an empty deque")
        return handle

    def append(self, value: Any) -> None:
        """Add a handle at the end."""
        self._open_loop()._put_ready(value)

    def appendleft(self, value: Any) -> None:
        """Add a handle at the front."""
        self._open_loop()._put_ready_first(value)

    def extendleft(self, values: Iterable[Any]) -> None:
        """Add handles at the front, one by one."""
        for value in values:
            self.appendleft(value)

    def _with_all(self, use: Callable[[deque[Any]], _T]) -> _T:
        handles: deque[Any] = deque()
        while len(self):
            handles.append(self.popleft())
        try:
            return use(handles)
        finally:
            self.extend(handles)

    def __getitem__(self, index: Any) -> Any:
        return self._with_all(lambda handles: handles[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._with_all(lambda handles: handles.__setitem__(index, value))

    def __delitem__(self, index: Any) -> None:
        self._with_all(lambda handles: handles.__delitem__(index))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._with_all(list))

    def insert(self, index: int, value: Any) -> None:
        """Add a handle before the one at `index`."""
        self._with_all(lambda handles: handles.insert(index, value))

    def pop(self, index: int = -1) -> Any:
        """Take the last handle."""

        def pop(handles: deque[Any]) -> Any:
            handle = handles[index]
            del handles[index]
            return handle

        return self._with_all(pop)

    def rotate(self, n: int = 1) -> None:
        """Move `n` handles from the end to the front."""
        self._with_all(lambda handles: handles.rotate(n))

    def reverse(self) -> None:
        """Reverse the order."""
        self._with_all(lambda handles: handles.reverse())

    def copy(self) -> deque[Any]:
        """Return a deque of the handles."""
        return deque(self)

    __copy__ = copy

    def __eq__(self, other: object) -> bool:
        return deque(self) == other if isinstance(other, deque) else self is other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(deque(self))
