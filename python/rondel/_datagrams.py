"""Creates datagram transports: a mixin for ``EventLoop``.

asyncio's ``create_datagram_endpoint`` calls the method here. IP and Unix sockets get native
transports.
"""

from __future__ import annotations

import socket
from asyncio import DatagramTransport
from typing import TYPE_CHECKING, Any

from . import _rondel

if TYPE_CHECKING:
    from asyncio import SelectorEventLoop as _Base
else:
    _Base = object

__all__ = ("Datagrams",)

_FAMILIES = frozenset((socket.AF_INET, socket.AF_INET6, socket.AF_UNIX))


class Datagrams(_Base):
    """Creates native transports in place of those of asyncio's selector loop."""

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: Any,
        address: Any = None,
        waiter: Any = None,
        extra: dict[str, Any] | None = None,
    ) -> DatagramTransport:
        # asyncio's transport calls `recvfrom` and `sendto`, which a subclass may override.
        if type(sock) is not socket.socket or sock.family not in _FAMILIES:
            make = super()._make_datagram_transport  # type: ignore[misc]
            return make(sock, protocol, address, waiter, extra)  # type: ignore[no-any-return]
        self._ensure_fd_no_transport(sock)  # type: ignore[attr-defined]
        return _rondel.make_datagram_transport(self, sock, protocol, address, waiter, extra)
