"""``open_connection``, ``start_server`` and their Unix variants, with native streams."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from ._rondel import StreamFactory, StreamReader, StreamReaderProtocol, StreamWriter

if TYPE_CHECKING:  # An interpreter may have been built without ssl.
    import ssl as _ssl

__all__ = (
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
)

_DEFAULT_LIMIT = 2**16

_ClientConnected = Callable[[StreamReader, StreamWriter], Awaitable[None] | None]


def _streams(limit: int) -> tuple[Any, StreamReader, StreamReaderProtocol]:
    loop = asyncio.get_running_loop()
    reader = StreamReader(limit=limit, loop=loop)
    return loop, reader, StreamReaderProtocol(reader, loop=loop)


async def open_connection(
    host: str | None = None,
    port: int | str | None = None,
    *,
    limit: int = _DEFAULT_LIMIT,
    **kwds: Any,
) -> tuple[StreamReader, StreamWriter]:
    """Connect to an address; return a reader and a writer.

    ``limit`` is the maximum length of a line in bytes; twice as much is buffered. All other
    arguments are those of ``loop.create_connection``.
    """
    loop, reader, protocol = _streams(limit)
    transport, _ = await loop.create_connection(lambda: protocol, host, port, **kwds)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: _ClientConnected,
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    limit: int = _DEFAULT_LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Start a server that calls ``client_connected_cb(reader, writer)`` for each connection.

    If the callback is a coroutine function, it runs as a task. ``limit`` is that of
    ``open_connection``. All other arguments are those of ``loop.create_server``.
    """
    loop = asyncio.get_running_loop()
    factory = StreamFactory(client_connected_cb, limit, loop)
    number: Any = port  # may be a service name, which typeshed does not declare
    return await loop.create_server(factory, host, number, **kwds)


async def open_unix_connection(
    path: str | os.PathLike[str] | None = None,
    *,
    limit: int = _DEFAULT_LIMIT,
    **kwds: Any,
) -> tuple[StreamReader, StreamWriter]:
    """Like ``open_connection``, for a Unix socket."""
    loop, reader, protocol = _streams(limit)
    transport, _ = await loop.create_unix_connection(lambda: protocol, path, **kwds)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def start_unix_server(
    client_connected_cb: _ClientConnected,
    path: str | os.PathLike[str] | None = None,
    *,
    limit: int = _DEFAULT_LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Like ``start_server``, for a Unix socket."""
    loop = asyncio.get_running_loop()
    factory = StreamFactory(client_connected_cb, limit, loop)
    return await loop.create_unix_server(factory, path, **kwds)


async def _upgrade(
    self: StreamWriter,
    sslcontext: _ssl.SSLContext,
    server_hostname: str | None,
    ssl_handshake_timeout: float | None,
    **kwds: float | None,
) -> None:
    protocol: Any = self._protocol
    server_side = protocol._client_connected_cb is not None
    await self.drain()
    transport = await self._loop.start_tls(
        self._transport,
        protocol,
        sslcontext,
        server_side=server_side,
        server_hostname=server_hostname,
        ssl_handshake_timeout=ssl_handshake_timeout,
        **kwds,
    )
    self._transport = transport  # type: ignore[assignment]  # None only if it was closed meanwhile
    if hasattr(protocol, "_replace_transport"):
        protocol._replace_transport(transport)
        if self._reader is not None and sys.version_info >= (3, 14):
            self._reader._transport = transport
    else:
        protocol._replace_writer(self)


if sys.version_info >= (3, 12):

    async def _start_tls(
        self: StreamWriter,
        sslcontext: _ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        """Upgrade the stream to TLS. The timeouts are in seconds."""
        timeout = ssl_shutdown_timeout
        await _upgrade(self, sslcontext, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout=timeout)

else:

    async def _start_tls(
        self: StreamWriter,
        sslcontext: _ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
    ) -> None:
        """Upgrade the stream to TLS. The timeout is in seconds."""
        await _upgrade(self, sslcontext, server_hostname, ssl_handshake_timeout)


_start_tls.__name__ = "start_tls"
_start_tls.__qualname__ = "StreamWriter.start_tls"
StreamWriter.start_tls = _start_tls  # type: ignore[method-assign]
