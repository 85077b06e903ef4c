"""Awaits what the native code has no way of its own for."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def _await(awaitable: Awaitable[_T]) -> _T:
    return await awaitable


async def next_line(reader: asyncio.StreamReader) -> bytes:
    """`StreamReader.__anext__`, of a reader whose `readline` may be a program's own."""
    line = await reader.readline()
    if line == b"":
        raise StopAsyncIteration
    return line
