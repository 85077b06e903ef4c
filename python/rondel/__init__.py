"""Python's asyncio, implemented in Rust."""

from ._rondel import Future, Handle, Task, TimerHandle, __version__
from .event_loop import EventLoop, new_event_loop

__all__ = ("EventLoop", "Future", "Handle", "Task", "TimerHandle", "__version__", "new_event_loop")
