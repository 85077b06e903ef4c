"""The object where asyncio's loop keeps its selector: the native reactor, as programs expect to find it.

The loop itself does not use it, unless a program has replaced its `select`: virtual clocks do, to look at the timeout and
move the time instead of waiting. Then each turn of the loop calls that.
"""

import selectors
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._event_loop import EventLoop

__all__ = ("ReactorSelector",)


class _Map(Mapping[Any, selectors.SelectorKey]):
    """What is registered, by descriptor."""

    def __init__(self, selector: "ReactorSelector") -> None:
        self._selector = selector

    def __len__(self) -> int:
        return len(self._selector._files())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._selector._files())

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.get_key(fileobj)


def _number(fileobj: Any) -> int:
    return selectors._fileobj_to_fd(fileobj)  # type: ignore[attr-defined,no-any-return]


class ReactorSelector(selectors.BaseSelector):
    """A loop's reactor as a selector. The data of its keys are two handles, of the reader and of the writer, or None."""

    _loop: "weakref.ref[EventLoop]"

    def __init__(self, loop: "EventLoop") -> None:
        vars(self)["_loop"] = weakref.ref(loop)

    def _open_loop(self) -> "EventLoop | None":
        loop = self._loop()
        return None if loop is None or loop.is_closed() else loop

    def _registering(self) -> "EventLoop":
        loop = self._open_loop()
        if loop is None:
            raise RuntimeError("Event loop is closed")
        return loop

    def _files(self) -> list[int]:
        loop = self._open_loop()
        return [] if loop is None else loop._watched_files()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a descriptor, for the handles that `data` holds."""
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        fd, loop = _number(fileobj), self._registering()
        if loop._watched(fd):
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        reader, writer = data
        if events & selectors.EVENT_READ:
            loop._watch(fd, 1, reader)
        if events & selectors.EVENT_WRITE:
            loop._watch(fd, 2, writer)
        return selectors.SelectorKey(fileobj, fd, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Watch a descriptor no more."""
        key = self.get_key(fileobj)
        loop = self._registering()
        loop._watch(key.fd, 1, None)
        loop._watch(key.fd, 2, None)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for descriptors that are ready, or for what ends the loop's wait, which has the descriptor -1."""
        if timeout is not None and timeout < 0:
            timeout = 0
        return self._registering()._select(timeout)

    def fileno(self) -> int:
        """A descriptor that can be read when `select()` has something to report."""
        return self._registering()._select_fd()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """What a descriptor is watched for."""
        loop = self._open_loop()
        fd = _number(fileobj)
        if loop is None or not loop._watched(fd):
            raise KeyError(f"{fileobj!r} is not registered")
        return loop._selector_key(fd)._replace(fileobj=fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """What is registered."""
        return _Map(self)

    def close(self) -> None:
        """The native part of the loop closes the reactor."""

    # `select` is looked for when an attribute changes, so that the loop need not look for it in each turn.

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
