"""Random scripts of feeds and reads: asyncio's StreamReader and Rondel's give the same results."""

import asyncio
import random
import sys
from typing import Any

import pytest

_ALPHABET = (b"a", b"b", b"\n", b"ab", b"-\n-", b"\r\n")


def _script(seed: int) -> list[tuple[Any, ...]]:
    """A strategy for scripts."""
    chance = random.Random(seed)

    def data() -> bytes:
        return b"".join(chance.choice(_ALPHABET) for _ in range(chance.randrange(12)))

    def read() -> tuple[Any, ...]:
        separators: list[Any] = [b"\n", b"\r\n", b"ab", b"-\n-", bytearray(b"ba")]
        if sys.version_info >= (3, 13):
            separators.append((b"\r\n", b"b", b"-\n-"))
        return chance.choice(
            [
                ("read", chance.choice([0, 1, 3, 100])),
                ("read", -1),
                ("readexactly", chance.randrange(20)),
                ("readline",),
                ("readuntil", chance.choice(separators)),
                ("__anext__",),
            ]
        )

    script: list[tuple[Any, ...]] = [("limit", chance.choice([1, 3, 8, 100]))]
    for _ in range(chance.randrange(5, 40)):
        kind = chance.randrange(20)
        if kind < 8:
            script.append(("feed", chance.choice([bytes, bytearray, memoryview])(data())))
        elif kind < 16:
            script.append(("start", *read()))
        elif kind < 17:
            script.append(("cancel",))
        elif kind < 18:
            script.append(("look",))
        else:
            script.append(("turn",))
    script.append(("set_exception",) if chance.randrange(5) == 0 else ("eof",))
    script += [("start", *read()) for _ in range(3)]
    return script


class _Transport:
    def __init__(self, trace: list[Any]) -> None:
        self.trace = trace

    def pause_reading(self) -> None:
        self.trace.append("pause")

    def resume_reading(self) -> None:
        self.trace.append("resume")


async def _perform(reader_class: Any, script: list[tuple[Any, ...]]) -> list[Any]:
    """Run a script; return everything observable."""
    trace: list[Any] = []
    reader = reader_class(limit=script[0][1])
    reader.set_transport(_Transport(trace))
    tasks: list[asyncio.Task[Any]] = []

    def settle() -> None:
        for number, task in enumerate(tasks):
            if not task.done() or task in seen:
                continue
            seen.add(task)
            if task.cancelled():
                trace.append((number, "cancelled"))
            elif (error := task.exception()) is not None:
                trace.append((number, type(error), error.args, getattr(error, "consumed", None)))
            else:
                trace.append((number, type(task.result()), task.result()))

    seen: set[asyncio.Task[Any]] = set()
    for step, *args in script[1:]:
        if step == "feed":
            reader.feed_data(args[0])
        elif step == "start":
            name, *rest = args
            # One read at a time: in asyncio, cancelling a second read breaks the first.
            if all(task.done() for task in tasks):
                tasks.append(asyncio.ensure_future(_call(getattr(reader, name), rest)))
                await asyncio.sleep(0)
        elif step == "cancel":
            for task in tasks:
                task.cancel()
        elif step == "look":
            trace.append(bytes(reader._buffer))
        elif step == "eof":
            reader.feed_eof()
        elif step == "set_exception":
            reader.set_exception(OSError("the connection is gone"))
        for _ in range(3):
            await asyncio.sleep(0)
        settle()
        trace.append((reader.at_eof(), reader._paused, reader._waiter is None, reader.exception() is None))
    trace.append(bytes(reader._buffer))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return trace


async def _call(method: Any, args: list[Any]) -> Any:
    try:
        return await method(*args)
    except StopAsyncIteration:
        return "the end"


@pytest.mark.parametrize("block", range(8))
def test_scripts_come_out_alike(block: int) -> None:
    import rondel

    with (
        asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as stock,
        asyncio.Runner(loop_factory=rondel.new_event_loop) as ours,
    ):
        for seed in range(block * 150, block * 150 + 150):
            script = _script(seed)
            expected = stock.run(_perform(asyncio.StreamReader, script))
            assert ours.run(_perform(rondel.StreamReader, script)) == expected, f"seed {seed}: {script}"
            # Also our reader on asyncio's loop.
            assert stock.run(_perform(rondel.StreamReader, script)) == expected, f"seed {seed}: {script}"
