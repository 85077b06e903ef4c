"""gevent: where it has patched threads, the loop's wait must let its greenlets run, as asyncio's does by the patched selector.

After `gevent.monkey.patch_all()` all "threads" are greenlets of one thread. A loop that waits in the kernel would keep them from
running, and an executor whose workers wait in the kernel would keep everything. So the loop waits for the descriptor of its
reactor by gevent's means, and its default executor is asyncio's own, whose locks are gevent's.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._event_loop import EventLoop

__all__ = ("cooperate",)


def cooperate(loop: "EventLoop") -> None:
    """Have a loop that is about to run wait by gevent's means, if gevent has patched threads."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading") or "select" in vars(loop._selector):
        return
    from gevent import sleep  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from gevent.socket import wait_read  # type: ignore[import-untyped,import-not-found,unused-ignore]

    wakes, descriptor = loop._signal_fd(), loop._selector.fileno()
    post = loop.call_soon_threadsafe

    def call_soon_threadsafe(*args: Any, **kwargs: Any) -> Any:
        handle = post(*args, **kwargs)
        # The "thread" is the loop's own, which is taken for awake.
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
