"""Creates stream transports: a mixin for ``EventLoop``.

asyncio's ``create_connection``, ``create_server`` and so on call the methods here. Sockets get
native transports, and connections are accepted natively. TLS is a protocol on such a transport
(``_tls.py``).
"""

from __future__ import annotations

import functools
import operator
import socket
from asyncio import BaseEventLoop, Transport, constants, sslproto
from contextvars import Context
from types import FunctionType
from typing import TYPE_CHECKING, Any

from . import _rondel

try:
    from ._tls import SSLProtocol
except AttributeError:  # this interpreter has no ssl module
    SSLProtocol = sslproto.SSLProtocol  # type: ignore[misc, assignment]

if TYPE_CHECKING:
    from asyncio import SelectorEventLoop as _Base
else:
    _Base = object

__all__ = ("Connections",)


_BYTES = "recv", "recv_into", "send", "sendmsg"


def _overrides_io(sock: socket.socket) -> bool:
    """Whether a socket's class overrides receiving or sending, for a proxy, say.

    asyncio's own transport is used then, because it calls these methods.
    """
    cls = type(sock)
    return cls is not socket.socket and any(
        getattr(cls, name, None) is not getattr(socket.socket, name) for name in _BYTES
    )


class Connections(_Base):
    """Creates native transports in place of those of asyncio's selector loop."""

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: Any,
        waiter: Any = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: Context | None = None,
    ) -> Transport:
        if _overrides_io(sock):
            make = super()._make_socket_transport  # type: ignore[misc]
            given = {} if context is None else {"context": context}
            return make(sock, protocol, waiter, extra=extra, server=server, **given)  # type: ignore[no-any-return]
        self._ensure_fd_no_transport(sock)  # type: ignore[attr-defined]
        return _rondel.make_socket_transport(self, sock, protocol, waiter, extra, server, context)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: Context | None = None,
    ) -> Transport:
        if _overrides_io(rawsock):
            make = super()._make_ssl_transport  # type: ignore[misc]
            return make(  # type: ignore[no-any-return]
                rawsock,
                protocol,
                sslcontext,
                waiter,
                server_side=server_side,
                server_hostname=server_hostname,
                extra=extra,
                server=server,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
                **({} if context is None else {"context": context}),
            )
        self._ensure_fd_no_transport(rawsock)  # type: ignore[attr-defined]
        ssl_protocol = SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        _rondel.make_socket_transport(self, rawsock, ssl_protocol, None, extra, server, context)
        transport: Transport = ssl_protocol._app_transport
        return transport

    def _accept_tls(
        self, protocol: Any, sslcontext: Any, handshake_timeout: float | None, shutdown_timeout: float | None
    ) -> SSLProtocol:
        """Create the protocol of an accepted connection."""
        return SSLProtocol(
            self,
            protocol,
            sslcontext,
            self.create_future(),
            True,
            None,
            ssl_handshake_timeout=handshake_timeout,
            ssl_shutdown_timeout=shutdown_timeout,
        )

    def _watch_handshake(self, ssl_protocol: Any) -> None:
        """Start a task that waits for the handshake of an accepted connection.

        asyncio has such a task for each accepted connection. Programs see it in ``all_tasks()``.
        Cancelling it closes the connection, as the end of ``asyncio.run()`` does.
        """
        handshake = self._await_handshake(ssl_protocol._waiter, ssl_protocol._app_protocol, ssl_protocol._app_transport)
        try:
            self.create_task(handshake)
        except BaseException:
            handshake.close()
            raise

    async def _await_handshake(self, waiter: Any, protocol: Any, transport: Any) -> None:
        try:
            await waiter
        except BaseException as exc:
            # Breaks a reference cycle: future, exception, traceback, this frame, future.
            del waiter
            transport.close()
            if isinstance(exc, SystemExit | KeyboardInterrupt):
                raise
            if self.get_debug():
                message = "Error on transport creation for incoming connection"
                self.call_exception_handler(
                    {"message": message, "exception": exc, "protocol": protocol, "transport": transport}
                )

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Upgrade a transport to TLS.

        Return the transport that the protocol must use from now on.
        """
        upgrade = super().start_tls
        if isinstance(transport, _rondel.SocketTransport):
            upgrade = functools.partial(_start_tls_natively, self)
        # Over any other transport, such as TLS in TLS, asyncio's own method works.
        return await upgrade(
            transport,
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        if not isinstance(transp, _rondel.SocketTransport):
            return await super()._sendfile_native(transp, file, offset, count)  # type: ignore[misc, no-any-return]
        # asyncio's code takes the transport out of this dict while it uses the socket directly, and
        # puts it back.
        fd = transp._sock_fd  # type: ignore[attr-defined]
        self._transports[fd] = transp  # type: ignore[attr-defined]
        try:
            return await super()._sendfile_native(transp, file, offset, count)  # type: ignore[misc, no-any-return]
        finally:
            self._transports.pop(fd, None)  # type: ignore[attr-defined]

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        **context: Context,  # from 3.15 on: each connection runs in a copy of it
    ) -> None:
        tls = (sslcontext, ssl_handshake_timeout, ssl_shutdown_timeout) if sslcontext else None
        run = context["context"].run if context else operator.call
        run(_rondel.start_serving, self, protocol_factory, sock, server, backlog, tls)


class _NativeTLS:
    """Replaces the module ``asyncio.sslproto`` in a copy of asyncio's ``start_tls``."""

    SSLProtocol = SSLProtocol


def _with_native_tls(function: FunctionType) -> Any:
    """Copy a function of asyncio, so that it creates our protocol in place of its own."""
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, "sslproto": _NativeTLS},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_start_tls_natively = _with_native_tls(BaseEventLoop.start_tls)  # type: ignore[arg-type]  # it is a function
