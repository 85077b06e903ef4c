"""Names and addresses: a mixin for ``EventLoop``.

Literal addresses are answered at once. Names are looked up in threads of their own, so that a slow name server holds up none
of what the program runs in the default executor.

Whoever replaces ``socket.getaddrinfo``, ``loop.run_in_executor`` or the default executor gets what asyncio does.
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

# How many names are looked up at once.
_THREADS = 16

_getaddrinfo = socket.getaddrinfo
_getnameinfo = socket.getnameinfo
_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


def _is_literal(host: object) -> bool:
    return _rondel.literal_addresses(host, 0, 0, socket.SOCK_DGRAM, 0, 0) is not None


class Resolver(_Base):
    """Looks names up."""

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
        """Return the addresses of a host, as ``socket.getaddrinfo``."""
        look_up = socket.getaddrinfo
        if look_up is _getaddrinfo and not self.get_debug():
            found = _rondel.literal_addresses(host, port, family, type, proto, flags)
            if found is not None:
                return found
        elif self.get_debug():
            look_up = self._getaddrinfo_debug  # type: ignore[attr-defined]
        return await self._in_resolver(look_up, host, port, family, type, proto, flags)  # type: ignore[no-any-return]

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Return the name and the service of an address, as ``socket.getnameinfo``."""
        look_up = socket.getnameinfo
        numeric = look_up is _getnameinfo and flags & _NUMERIC == _NUMERIC
        # The host may still be a name, which the function would look up.
        if numeric and isinstance(sockaddr, tuple) and sockaddr and _is_literal(sockaddr[0]):
            return look_up(sockaddr, flags)
        return await self._in_resolver(look_up, sockaddr, flags)  # type: ignore[no-any-return]

    def _in_resolver(self, look_up: Callable[..., Any], *args: Any) -> Any:
        # Now, and not before: it imports what asyncio imports when it makes an executor.
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
            """Wait until no thread of the loop's own runs any more, for at most `timeout` seconds."""
            await self._shut_down_executors(timeout)

    else:

        async def shutdown_default_executor(self) -> None:
            """Wait until no thread of the loop's own runs any more."""
            await self._shut_down_executors()

    async def _shut_down_executors(self, *timeout: float | None) -> None:
        await super().shutdown_default_executor(*timeout)
        if self._resolver is not None:
            # Its threads are waited for in the same way.
            default, self._default_executor, self._resolver = self._default_executor, self._resolver, None
            try:
                await super().shutdown_default_executor(*timeout)
            finally:
                self._default_executor = default

    def close(self) -> None:
        """Close the loop. Threads that look something up are not waited for."""
        super().close()
        resolver, self._resolver = self._resolver, None
        if resolver is not None:
            resolver.shutdown(wait=False)
