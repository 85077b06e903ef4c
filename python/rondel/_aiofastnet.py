"""aiofastnet on a Rondel loop: its functions use Rondel's transports.

aiofastnet brings transports of its own, which work on any loop. Libraries call its functions with
the loop they run on. On a Rondel loop these transports are slow: they use `add_reader()`, with
Python calls for each packet. So when aiofastnet is imported, its functions are replaced: on a
Rondel loop, they call the loop's own methods. A program that has aiofastnet patch a loop
(`patch_loop`, `loop_factory`) still gets aiofastnet's transports.
"""

import asyncio
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ._event_loop import EventLoop
from ._import_hooks import when_imported

__all__ = ("use_native_transports",)

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
#: Functions of the module asyncio. aiofastnet's take the loop as an additional first argument.
_STREAMS = ("open_connection", "open_unix_connection", "start_server", "start_unix_server")
#: Options for buffers that Rondel's transports don't have: ignored.
_AIOFASTNET_OPTIONS = ("ssl_incoming_bio_size", "ssl_outgoing_bio_size")


def _wrap_factory(package: ModuleType, factory: Any) -> Any:
    """Wrap a protocol factory, so that asyncio transports can use the protocols.

    A protocol may derive from `aiofastnet.Protocol` alone. aiofastnet has wrappers for these.
    """
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


def _unwrap_result(package: ModuleType, result: Any) -> Any:
    """Return transport and protocol without the wrapper that `_wrap_factory` added."""
    if isinstance(result, tuple) and isinstance(result[1], package.wrapped_transport._WrappedProtocolBase):
        return result[1]._wrapped_transport, result[1]._protocol
    return result


def _route(package: ModuleType, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    is_method, takes_transport = name in _METHODS, name in ("sendfile", "start_tls")
    takes_factory = name.startswith(("create_", "connect_")) and name != "create_datagram_endpoint"

    @functools.wraps(original)
    async def function(loop: Any, *args: Any, **kwargs: Any) -> Any:
        own = isinstance(loop, EventLoop) and not hasattr(loop, "_aiofastnet_patched_methods")
        if own and takes_transport:
            own = not isinstance(args[0] if args else kwargs.get("transport"), package.Transport)
        if not own or (not is_method and loop is not asyncio.get_running_loop()):
            return await original(loop, *args, **kwargs)
        for option in _AIOFASTNET_OPTIONS:
            kwargs.pop(option, None)
        if takes_factory and args:
            args = (_wrap_factory(package, args[0]), *args[1:])
        elif takes_factory and "protocol_factory" in kwargs:
            kwargs["protocol_factory"] = _wrap_factory(package, kwargs["protocol_factory"])
        result = await getattr(loop if is_method else asyncio, name)(*args, **kwargs)
        return _unwrap_result(package, result) if takes_factory else result

    return function


def _patch(package: ModuleType) -> None:
    for name in (*_METHODS, *_STREAMS):
        original = vars(package).get(name)
        if callable(original):
            setattr(package, name, _route(package, name, original))


def use_native_transports() -> None:
    """Make aiofastnet, once it is imported, use Rondel's transports on Rondel's loops."""
    when_imported("aiofastnet", _patch)
