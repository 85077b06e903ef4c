"""Memory after many calls: Python's blocks, and what the process has (Rust's with it)."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

rust = pytest.importorskip("rondel_pyo3_testing", reason="make test-extension builds it")

#: Of each kind; 100,000 and more of all kinds on each loop.
CALLS = 8_000


async def one() -> int:
    return 1


async def pauses() -> None:
    await asyncio.sleep(0)


async def fails() -> None:
    raise KeyError


async def gives_up(awaitable) -> None:
    task = asyncio.ensure_future(awaitable)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def two() -> AsyncIterator[int]:
    yield 1
    yield 2


KINDS = {
    "ready": lambda: rust.ready("value"),
    "give way": rust.give_way,
    "cancelled": lambda: gives_up(rust.never()),
    "Python": lambda: rust.awaited(one()),
    "Python that pauses": lambda: rust.awaited(pauses()),
    "Python that fails": lambda: rust.outcome(fails()),
    "Python cancelled": lambda: gives_up(rust.outcome(asyncio.sleep(60))),
    "Python beside a timer": lambda: rust.awaited_within(60, pauses()),
    "Python as a task": lambda: rust.awaited_as_task(pauses()),
    "two at once": lambda: rust.joined([pauses(), pauses()], False),
    "method": lambda: rust.Counter().add(1),
    "task of Rust's": lambda: rust.call_as_future(pauses),
    "iterator": lambda: anext(rust.numbers(1)),
    "iterable": lambda: rust.collect(two()),
}


def resident() -> int:
    """The process's own memory, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_memory_stays_flat(run, kind) -> None:
    async def calls(count: int) -> None:
        for _ in range(count):
            await kind()

    async def main() -> None:
        await calls(CALLS // 4)
        gc.collect()
        blocks, memory = sys.getallocatedblocks(), resident()
        await calls(CALLS)
        gc.collect()
        assert sys.getallocatedblocks() - blocks < 200
        # An allocation of Rust's for each call would be more; the allocators keep room of their
        # own.
        assert resident() - memory < CALLS * 32 // 1024

    run(main())
