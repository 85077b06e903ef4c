"""Awaits whatever the native code has no way of its own for."""

from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def _await(awaitable: Awaitable[_T]) -> _T:
    return await awaitable
