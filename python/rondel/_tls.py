"""TLS: asyncio's protocol and transport, with a native data path.

What happens once per connection (handshake, timeouts, shutdown, reporting of errors) is asyncio's
code of the running version. What happens per message is native, in ``_rondel.TLSProtocolCore`` and
``_rondel.TLSTransportCore``.
"""

from __future__ import annotations

from asyncio import BufferedProtocol, sslproto
from typing import TYPE_CHECKING, Any

from . import _rondel
from ._functions import install_in_class

if TYPE_CHECKING:

    class _SSLProtocol(BufferedProtocol):
        """The attributes of asyncio's class that this file uses; typeshed declares another base."""

        max_size: int
        _app_transport: Any
        _app_transport_created: bool

        def __init__(self, *args: Any, **kwds: Any) -> None: ...
        def _start_shutdown(self) -> None: ...
        def _abort(self, *args: Any) -> None: ...
        def _fatal_error(self, exc: BaseException, message: str) -> None: ...
        def connection_lost(self, exc: BaseException | None) -> None: ...

else:
    _SSLProtocol = sslproto.SSLProtocol

__all__ = ("SSLProtocol", "SSLTransport")


class SSLTransport(_rondel.TLSTransportCore, sslproto._SSLProtocolTransport):
    """A transport over TLS."""

    # The native class comes first in the MRO and has no `__init__`; object's would be used.
    __init__ = sslproto._SSLProtocolTransport.__init__

    def _test__append_write_backlog(self, data: bytes) -> None:
        # CPython's own tests use it.
        protocol: Any = self._ssl_protocol
        protocol._write_backlog = [*protocol._write_backlog, data]
        protocol._write_buffer_size += len(data)


class SSLProtocol(_rondel.TLSProtocolCore, _SSLProtocol):
    """The TLS layer between a socket's transport and the program's protocol."""

    def __init__(self, *args: Any, **kwds: Any) -> None:
        # asyncio's `__init__` allocates a buffer of this size, which is needed only on foreign
        # transports.
        self.max_size = 0
        super().__init__(*args, **kwds)
        del self.max_size

    def _get_app_transport(self) -> Any:
        if self._app_transport is None:
            if self._app_transport_created:
                raise RuntimeError("Creating _SSLProtocolTransport twice")
            self._app_transport = SSLTransport(self._loop, self)
            self._app_transport_created = True
        return self._app_transport

    def _fail(self, exc: Exception) -> None:
        """Handle an exception of the data path in an `except` block, like asyncio."""
        try:
            raise exc
        except Exception:
            self._fatal_error(exc, "Fatal error on SSL protocol")

    # Written data is encrypted and sent at the end of the turn. These methods must come after it.

    def _start_shutdown(self) -> None:
        self._flush_written()
        super()._start_shutdown()

    def _abort(self, *args: Any) -> None:
        self._flush_written()
        super()._abort(*args)

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        self._flush_written()
        super()._fatal_error(exc, message)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Drop the data that was not encrypted yet: the connection below is lost."""
        self._write_backlog = ()
        super().connection_lost(exc)


_rondel.bind_tls(SSLProtocol, SSLTransport)
install_in_class(SSLProtocol, sslproto.SSLProtocol)
install_in_class(SSLTransport, sslproto._SSLProtocolTransport)
