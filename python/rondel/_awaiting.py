"""Coroutines for awaitables that native code does not handle itself."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def _await(awaitable: Awaitable[_T]) -> _T:
    return await awaitable


async def next_line(reader: asyncio.StreamReader) -> bytes:
    """`StreamReader.__anext__` for a reader whose `readline` a subclass may have overridden."""
    line = await reader.readline()
    if line == b"":
        raise StopAsyncIteration
    return line
