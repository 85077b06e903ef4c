"""`loop._selector`: the native reactor, with the interface of a selector.

The loop does not use this object, unless a program has replaced its `select` method. Virtual clocks
do that: they advance the time by the timeout instead of waiting. Then each turn of the loop calls
that `select`.
"""

import selectors
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._event_loop import EventLoop

__all__ = ("ReactorSelector",)


class _RegisteredFiles(Mapping[Any, selectors.SelectorKey]):
    """The registered descriptors and their keys."""

    def __init__(self, selector: "ReactorSelector") -> None:
        self._selector = selector

    def __len__(self) -> int:
        return len(self._selector._files())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._selector._files())

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.get_key(fileobj)


def _fd_of(fileobj: Any) -> int:
    return selectors._fileobj_to_fd(fileobj)  # type: ignore[attr-defined,no-any-return]


class ReactorSelector(selectors.BaseSelector):
    """A loop's reactor as a selector.

    A key's data is a pair: the handles of reader and writer, or None.
    """

    _loop: "weakref.ref[EventLoop]"

    def __init__(self, loop: "EventLoop") -> None:
        vars(self)["_loop"] = weakref.ref(loop)

    def _open_loop(self) -> "EventLoop | None":
        loop = self._loop()
        return None if loop is None or loop.is_closed() else loop

    def _require_loop(self) -> "EventLoop":
        loop = self._open_loop()
        if loop is None:
            raise RuntimeError("Event loop is closed")
        return loop

    def _files(self) -> list[int]:
        loop = self._open_loop()
        return [] if loop is None else loop._watched_files()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a descriptor. `data` is a pair: the handles of reader and writer."""
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        fd, loop = _fd_of(fileobj), self._require_loop()
        if loop._watched(fd):
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        reader, writer = data
        if events & selectors.EVENT_READ:
            loop._watch(fd, 1, reader)
        if events & selectors.EVENT_WRITE:
            loop._watch(fd, 2, writer)
        return selectors.SelectorKey(fileobj, fd, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Stop watching a descriptor."""
        key = self.get_key(fileobj)
        loop = self._require_loop()
        loop._watch(key.fd, 1, None)
        loop._watch(key.fd, 2, None)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait until a descriptor is ready or the loop is woken up (reported as descriptor -1)."""
        if timeout is not None and timeout < 0:
            timeout = 0
        return self._require_loop()._select(timeout)

    def fileno(self) -> int:
        """A descriptor that is readable when `select()` has something to report."""
        return self._require_loop()._select_fd()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """Return the key of a registered descriptor."""
        loop = self._open_loop()
        fd = _fd_of(fileobj)
        if loop is None or not loop._watched(fd):
            raise KeyError(f"{fileobj!r} is not registered")
        return loop._selector_key(fd)._replace(fileobj=fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return the registered descriptors and their keys."""
        return _RegisteredFiles(self)

    def close(self) -> None:
        """Do nothing: the native part of the loop closes the reactor."""

    # Whether `select` is replaced is determined when an attribute changes, and not in each turn.

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self._changed()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._changed()

    def _changed(self) -> None:
        loop = self._loop()
        if loop is not None and loop._selector is self:
            loop._selector_changed("select" not in vars(self))
