"""A loop's default executor: a `ThreadPoolExecutor` whose threads wait on a native queue.

The loop submits native jobs (`to_thread`, `run_in_executor(None, …)`). A program that submits to
`loop._default_executor` itself queues a `_Call` with a `concurrent.futures.Future`. Both are in the
same queue.
"""

import os
import threading
import weakref
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import thread as pool
from typing import Any

from ._rondel import WorkQueue

__all__ = ("LoopExecutor",)


class _Call:
    """A call that a program submitted to the executor."""

    def __init__(self, future: Any, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.future = future
        self._call = (fn, args, kwargs)

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        fn, args, kwargs = self._call
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            self.future.set_exception(error)
            # Breaks a reference cycle: the error's traceback holds this frame.
            del self, fn, args, kwargs
        else:
            self.future.set_result(result)


class LoopExecutor(futures.ThreadPoolExecutor):
    """A thread pool. It grows, up to its maximum, when work is submitted and no thread is idle."""

    def __init__(self, max_workers: int | None = None, thread_name_prefix: str = "") -> None:
        super().__init__(max_workers, thread_name_prefix)
        self._work_queue: Any = WorkQueue()
        _executors.add(self)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `fn` in a thread; return a `concurrent.futures.Future`."""
        future: futures.Future[Any] = futures.Future()
        self._submit_item(_Call(future, fn, args, kwargs))
        return future

    def _submit_item(self, item: Any) -> None:
        with self._shutdown_lock, pool._global_shutdown_lock:
            if self._broken:
                raise pool.BrokenThreadPool(self._broken)
            if self._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if pool._shutdown:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            self._work_queue.put(item)
            self._adjust_thread_count()

    def _adjust_thread_count(self) -> None:
        count = len(self._threads)
        if self._work_queue._has_worker() or count >= self._max_workers:
            return
        queue = self._work_queue
        # If the executor is garbage-collected, its threads wake up and end.
        reference = weakref.ref(self, lambda _: queue.put(None))
        name = f"{self._thread_name_prefix or self}_{count}"
        worker = threading.Thread(name=name, target=_work, args=(reference, queue))
        worker.start()
        self._threads.add(worker)  # type: ignore[attr-defined]  # a set; typeshed declares it read-only
        # The interpreter joins these threads when it exits.
        pool._threads_queues[worker] = queue  # type: ignore[index]


def _work(reference: "weakref.ref[LoopExecutor]", queue: Any) -> None:
    try:
        while True:
            queue._work()
            executor = reference()
            if pool._shutdown or executor is None or executor._shutdown:
                if executor is not None:
                    executor._shutdown = True
                queue.put(None)  # for the next thread
                return
            del executor
    except BaseException:
        futures._base.LOGGER.critical("Exception in worker", exc_info=True)


_executors: weakref.WeakSet[LoopExecutor] = weakref.WeakSet()


def _reset_after_fork() -> None:
    for executor in list(_executors):
        executor._work_queue._at_fork_reinit()


os.register_at_fork(after_in_child=_reset_after_fork)
