"""aiofastnet on a Rondel loop: its functions reach Rondel's own transports.

It has transports of its own for any loop, and libraries call its functions with the loop they run on. Over a Rondel loop they
would take the slow way: Python calls for each packet, through `add_reader()`. When the package is imported, its functions are
replaced by ones that go to the loop's own methods if the loop is Rondel's. Whoever has aiofastnet patch a loop (`patch_loop`,
`loop_factory`) gets aiofastnet's transports, as asked for.
"""

import asyncio
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ._event_loop import EventLoop
from ._import_hooks import when_imported

__all__ = ("use_own_transports",)

_METHODS = (
    "connect_accepted_socket",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "sendfile",
    "sock_accept",
    "sock_connect",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendto",
    "start_tls",
)
#: Functions of the module asyncio, with the loop as one argument more.
_STREAMS = ("open_connection", "open_unix_connection", "start_server", "start_unix_server")
#: Sizes of buffers that Rondel's transports don't have.
_OPTIONS_OF_ITS_OWN = ("ssl_incoming_bio_size", "ssl_outgoing_bio_size")


def _adapting(package: ModuleType, factory: Any) -> Any:
    """A factory whose protocols of aiofastnet's own kind, which asyncio's transports don't know, are wrapped as it does it."""
    if not callable(factory):
        return factory

    def adapted() -> Any:
        protocol = factory()
        if not isinstance(protocol, package.Protocol) or isinstance(protocol, asyncio.BaseProtocol):
            return protocol
        wrapped = package.wrapped_transport
        if package.aiofn_is_buffered_protocol(protocol):
            return wrapped._WrappedBufferedProtocol(protocol)
        return wrapped._WrappedProtocol(protocol)

    return adapted


def _as_asked(package: ModuleType, result: Any) -> Any:
    """What a connection is for who asked for it, without what `_adapting` has put around its protocol."""
    if isinstance(result, tuple) and isinstance(result[1], package.wrapped_transport._WrappedProtocolBase):
        return result[1]._wrapped_transport, result[1]._protocol
    return result


def _routed(package: ModuleType, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    is_method, takes_transport = name in _METHODS, name in ("sendfile", "start_tls")
    takes_factory = name.startswith(("create_", "connect_")) and name != "create_datagram_endpoint"

    @functools.wraps(original)
    async def function(loop: Any, *args: Any, **kwargs: Any) -> Any:
        own = isinstance(loop, EventLoop) and not hasattr(loop, "_aiofastnet_patched_methods")
        if own and takes_transport:
            own = not isinstance(args[0] if args else kwargs.get("transport"), package.Transport)
        if not own or (not is_method and loop is not asyncio.get_running_loop()):
            return await original(loop, *args, **kwargs)
        for option in _OPTIONS_OF_ITS_OWN:
            kwargs.pop(option, None)
        if takes_factory and args:
            args = (_adapting(package, args[0]), *args[1:])
        elif takes_factory and "protocol_factory" in kwargs:
            kwargs["protocol_factory"] = _adapting(package, kwargs["protocol_factory"])
        result = await getattr(loop if is_method else asyncio, name)(*args, **kwargs)
        return _as_asked(package, result) if takes_factory else result

    return function


def _patch(package: ModuleType) -> None:
    for name in (*_METHODS, *_STREAMS):
        original = vars(package).get(name)
        if callable(original):
            setattr(package, name, _routed(package, name, original))


def use_own_transports() -> None:
    """Have aiofastnet's functions use Rondel's transports on Rondel's loops, once it is imported."""
    when_imported("aiofastnet", _patch)
