"""Name resolution: a mixin for ``EventLoop``.

Literal addresses are resolved at once. Names are looked up in threads of a separate executor, so
that a slow name server does not delay what the program runs in the default executor.

If a program replaces ``socket.getaddrinfo``, ``loop.run_in_executor`` or the default executor,
names are looked up as asyncio does it.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _rondel

if TYPE_CHECKING:
    from asyncio import SelectorEventLoop as _Base

    from ._executor import LoopExecutor
else:
    _Base = object

__all__ = ("Resolver",)

# The maximum number of concurrent lookups.
_THREADS = 16

_getaddrinfo = socket.getaddrinfo
_getnameinfo = socket.getnameinfo
_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


def _is_literal(host: object) -> bool:
    return _rondel.literal_addresses(host, 0, 0, socket.SOCK_DGRAM, 0, 0) is not None


class Resolver(_Base):
    """``getaddrinfo``, ``getnameinfo`` and the executor they use."""

    _resolver: LoopExecutor | None
    _default_executor: Any

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Return the addresses of a host, as ``socket.getaddrinfo`` does."""
        look_up = socket.getaddrinfo
        if look_up is _getaddrinfo and not self.get_debug():
            found = _rondel.literal_addresses(host, port, family, type, proto, flags)
            if found is not None:
                return found
        elif self.get_debug():
            look_up = self._getaddrinfo_debug  # type: ignore[attr-defined]
        return await self._run_in_resolver(look_up, host, port, family, type, proto, flags)  # type: ignore[no-any-return]

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Return the host and service name of an address, as ``socket.getnameinfo`` does."""
        look_up = socket.getnameinfo
        numeric = look_up is _getnameinfo and flags & _NUMERIC == _NUMERIC
        # With numeric flags the function does not block, unless the host is a name.
        if numeric and isinstance(sockaddr, tuple) and sockaddr and _is_literal(sockaddr[0]):
            return look_up(sockaddr, flags)
        return await self._run_in_resolver(look_up, sockaddr, flags)  # type: ignore[no-any-return]

    def _run_in_resolver(self, look_up: Callable[..., Any], *args: Any) -> Any:
        # Imported late, because it imports `concurrent.futures.thread`. asyncio, too, imports that
        # only when it creates an executor.
        from ._executor import LoopExecutor

        default = self._default_executor
        if (default is not None and type(default) is not LoopExecutor) or not self._runs_in_executor_directly():  # type: ignore[attr-defined]
            return self.run_in_executor(None, look_up, *args)
        self._check_closed()  # type: ignore[attr-defined]
        self._check_default_executor()  # type: ignore[attr-defined]
        if self._resolver is None:
            self._resolver = LoopExecutor(_THREADS, "rondel-resolver")
        return asyncio.wrap_future(self._resolver.submit(look_up, *args), loop=self)

    if sys.version_info >= (3, 12):

        async def shutdown_default_executor(self, timeout: float | None = None) -> None:
            """Wait at most `timeout` seconds for the threads of the loop's executors to end."""
            await self._shut_down_executors(timeout)

    else:

        async def shutdown_default_executor(self) -> None:
            """Wait for the threads of the loop's executors to end."""
            await self._shut_down_executors()

    async def _shut_down_executors(self, *timeout: float | None) -> None:
        await super().shutdown_default_executor(*timeout)
        if self._resolver is not None:
            # asyncio's method shuts the resolver down in the same way.
            default, self._default_executor, self._resolver = self._default_executor, self._resolver, None
            try:
                await super().shutdown_default_executor(*timeout)
            finally:
                self._default_executor = default

    def close(self) -> None:
        """Close the loop. This does not wait for threads that are looking up names."""
        super().close()
        resolver, self._resolver = self._resolver, None
        if resolver is not None:
            resolver.shutdown(wait=False)
