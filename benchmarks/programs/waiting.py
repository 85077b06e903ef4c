"""Memory of tasks that wait: `python waiting.py --loop NAME --form FORM --on future|lock|sleep --tasks N`.

It makes so many tasks, lets each begin to wait, and prints what the process has grown by as a line of JSON, in bytes for
each task. That is read from the kernel when nothing is left to be collected.
"""

import argparse
import gc
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from binding import bind


def memory() -> dict[str, int]:
    """Bytes by name (Rss, Pss, …) as the kernel sums them up over all mappings of this process."""
    gc.collect()
    text = Path("/proc/self/smaps_rollup").read_text()
    return {name: int(kib) * 1024 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", text)}


async def measure(asyncio: Any, on: str, tasks: int) -> dict[str, float]:
    """Makes the tasks and gives the figures."""
    loop = asyncio.get_running_loop()
    begun = 0

    async def on_future() -> None:
        nonlocal begun
        begun += 1
        await loop.create_future()

    async def on_lock() -> None:
        nonlocal begun
        begun += 1
        async with lock:
            raise RuntimeError("the lock is free")

    async def on_sleep() -> None:
        nonlocal begun
        begun += 1
        await asyncio.sleep(3600)

    lock = asyncio.Lock()
    await lock.acquire()
    waits = {"future": on_future, "lock": on_lock, "sleep": on_sleep}[on]
    waiting: list[Any] = [None] * tasks
    # A loop that has run, and memory that it keeps for good, are no task's.
    some = [asyncio.ensure_future(waits()) for _ in range(100)]
    await asyncio.sleep(0.01)
    before, begun = memory(), 0
    for number in range(tasks):
        waiting[number] = asyncio.ensure_future(waits())
    while begun < tasks:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    after = memory()
    if any(task.done() for task in (*some, *waiting)):
        raise RuntimeError("a task does not wait")
    return {f"{kind}_each": (after[kind.title()] - before[kind.title()]) / tasks for kind in ("rss", "pss")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--form", choices=["loop", "module"], required=True)
    parser.add_argument("--on", choices=["future", "lock", "sleep"], required=True)
    parser.add_argument("--tasks", type=int, required=True)
    options = parser.parse_args()
    binding = bind(options.loop, options.form)

    async def run() -> None:
        print(json.dumps(await measure(binding.asyncio, options.on, options.tasks)), flush=True)
        # The harness reads this process's memory before it closes our input. To end the tasks would
        # take longer than all this.
        sys.stdin.read()
        os._exit(0)

    binding.run(run())


if __name__ == "__main__":
    main()
