"""gevent: a loop must let greenlets run while it waits, if gevent has patched threads.

After `gevent.monkey.patch_all()` all "threads" are greenlets of one thread. A loop that waits in
the kernel would block all of them, and so would an executor whose workers wait in the kernel. So
the loop waits for its reactor's descriptor with `gevent.socket.wait_read`, and its default executor
is the standard one, whose locks are gevent's. (Stock asyncio waits in a selector that gevent has
patched.)
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._event_loop import EventLoop

__all__ = ("cooperate",)


def cooperate(loop: "EventLoop") -> None:
    """Make a loop that is about to run wait with gevent, if gevent has patched threads."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading") or "select" in vars(loop._selector):
        return
    from gevent import sleep  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from gevent.socket import wait_read  # type: ignore[import-untyped,import-not-found,unused-ignore]

    wakes, descriptor = loop._signal_fd(), loop._selector.fileno()
    post = loop.call_soon_threadsafe

    def call_soon_threadsafe(*args: Any, **kwargs: Any) -> Any:
        handle = post(*args, **kwargs)
        # A greenlet runs in the loop's own thread, so the native code assumes that the loop is
        # awake and does not wake it.
        os.write(wakes, b"\0")
        return handle

    def select(timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            sleep(0)
        elif not (found := loop._select(0)):
            try:
                wait_read(descriptor, timeout)
            except TimeoutError:
                pass
        else:
            return found
        return loop._select(0)

    loop.call_soon_threadsafe = call_soon_threadsafe  # type: ignore[method-assign,assignment]
    loop._selector.select = select
    if loop._default_executor is None:
        from concurrent.futures import ThreadPoolExecutor

        loop._default_executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
