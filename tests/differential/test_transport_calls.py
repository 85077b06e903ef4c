"""Each method of each kind of transport, with arguments of each kind, behaves like asyncio's.

The test compares the result or the exception with its text, the transport's state after the call,
the calls of the protocol and of the loop's exception handler, and the signature that `inspect`
shows.
"""

import asyncio
import contextlib
import inspect
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

trustme = pytest.importorskip("trustme", reason="certificates are made with trustme (tests/requirements.txt)")

METHODS = {
    "socket": (
        "write writelines write_eof can_write_eof get_write_buffer_size get_write_buffer_limits "
        "set_write_buffer_limits is_reading pause_reading resume_reading close abort is_closing get_protocol "
        "set_protocol get_extra_info _fatal_error _force_close _call_connection_lost _maybe_pause_protocol "
        "_maybe_resume_protocol _make_empty_waiter _reset_empty_waiter"
    ),
    "datagram": (
        "sendto get_write_buffer_size get_write_buffer_limits set_write_buffer_limits is_reading pause_reading "
        "resume_reading close abort is_closing get_protocol set_protocol get_extra_info _fatal_error _force_close "
        "_call_connection_lost _maybe_pause_protocol _maybe_resume_protocol"
    ),
    "read pipe": (
        "is_reading pause_reading resume_reading close is_closing get_protocol set_protocol get_extra_info "
        "_fatal_error _close _call_connection_lost"
    ),
    "write pipe": (
        "write writelines write_eof can_write_eof get_write_buffer_size get_write_buffer_limits "
        "set_write_buffer_limits close abort is_closing get_protocol set_protocol get_extra_info _fatal_error _close "
        "_call_connection_lost _maybe_pause_protocol _maybe_resume_protocol"
    ),
    "tls": (
        "write writelines write_eof can_write_eof get_write_buffer_size get_write_buffer_limits "
        "set_write_buffer_limits get_read_buffer_size get_read_buffer_limits set_read_buffer_limits is_reading "
        "pause_reading resume_reading close abort is_closing get_protocol set_protocol get_extra_info _force_close"
    ),
}
KINDS = {
    "tcp": "socket",
    "unix": "socket",
    "datagram": "datagram",
    "connected datagram": "datagram",
    "read pipe": "read pipe",
    "write pipe": "write pipe",
    "subprocess": "write pipe",
    "tls": "tls",
    "tls by objects": "tls",
}


class _Odd:
    """An argument that no method accepts."""

    def __repr__(self) -> str:
        return "<odd>"


ODD = _Odd()
VALUES: list[Any] = [
    0,
    7,
    1.5,
    -1,
    -2.5,
    2**80,
    -(2**80),
    float("inf"),
    float("nan"),
    True,
    None,
    "text",
    b"",
    b"bytes",
    bytearray(b"array"),
    memoryview(b"view"),
    memoryview(b"strided")[::2],
    [b"a", b"list"],
    [],
    [1.5],
    (b"t", "mixed"),
    {},
    ODD,
    ValueError("an exception"),
    OSError(5, "a failure"),
    ConnectionResetError,
]
NAMED: dict[str, list[dict[str, Any]]] = {
    "set_write_buffer_limits": [
        {"high": high, "low": low}
        for high in (None, 0, 7, 1.5, -1, 2**80, float("inf"), "text", True)
        for low in (None, 0, 7, 1.5, -1, 2**80, float("nan"), b"x", ODD)
    ]
    + [{"high": 3}, {"low": 3}, {"low": 1.25}, {"hi": 1}, {"high": 1, "other": 2}],
    "set_read_buffer_limits": [{"high": 1.5}, {"low": 2**80}, {"high": 1, "low": 2}, {"high": "text"}, {"hi": 1}],
    "write": [{"data": b"x"}, {"data": 5}, {"bytes": b"x"}],
    "writelines": [{"list_of_data": [b"x", b"y"]}, {"list_of_data": 5}, {"lines": []}],
    "sendto": [{"data": b"x"}, {"data": b"x", "addr": 5}, {"data": b"x", "address": None}, {"addr": None}],
    "set_protocol": [{"protocol": None}, {"protocol": ODD}, {"other": 1}],
    "get_extra_info": [{"name": "nothing"}, {"name": "nothing", "default": 5}, {"name": []}, {"default": 5}],
    "_fatal_error": [{"exc": OSError(5, "a failure"), "message": "told"}, {"exc": ValueError("x")}, {"message": "m"}],
    "_force_close": [{"exc": ValueError("x")}, {"other": 1}],
    "_call_connection_lost": [{"exc": ValueError("x")}, {"other": 1}],
    "_close": [{"exc": ValueError("x")}, {"other": 1}],
}
PAIRS = [
    (b"bytes", 5),
    (b"bytes", None),
    (ValueError("an exception"), "told"),
    (ValueError("x"), 5),
    (7, 1.5),
    (1.5, 7),
]


def calls(method: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return the arguments for a method."""
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((), {})]
    given += [((value,), {}) for value in VALUES]
    given += [(pair, {}) for pair in PAIRS]
    given += [((b"one", b"two", b"three"), {})]
    given += [((), named) for named in NAMED.get(method, [{"other": 1}])]
    return given


class _Protocol(asyncio.Protocol, asyncio.DatagramProtocol):
    def __init__(self, heard: list[Any]) -> None:
        self.heard = heard
        self.made: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = transport

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")

    def error_received(self, exc: Exception) -> None:
        self.heard.append(("error", type(exc), str(exc)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append(("lost", type(exc), str(exc)))


@contextlib.asynccontextmanager
async def opened(kind: str, protocol: _Protocol, contexts: Any) -> AsyncIterator[Any]:
    """A transport of a kind, with a silent peer."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        if kind in ("tcp", "unix"):
            if kind == "tcp":
                listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                ours = socket.create_connection(listening.getsockname())
                stack.enter_context(listening.accept()[0])
            else:
                ours, peer = socket.socketpair()
                stack.enter_context(peer)
            transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        elif "datagram" in kind:
            peer = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            peer.bind(("127.0.0.1", 0))
            remote = peer.getsockname() if kind == "connected datagram" else None
            local = ("127.0.0.1", 0)
            transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local, remote)
        elif kind == "read pipe":
            reader, writer = os.pipe()
            stack.enter_context(open(writer, "wb", 0))
            transport, _ = await loop.connect_read_pipe(lambda: protocol, open(reader, "rb", 0))  # noqa: SIM115 - the transport closes it
        elif kind == "write pipe":
            reader, writer = os.pipe()
            stack.enter_context(open(reader, "rb", 0))
            transport, _ = await loop.connect_write_pipe(lambda: protocol, open(writer, "wb", 0))  # noqa: SIM115 - as above
        elif kind == "subprocess":
            program = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
            ended = loop.create_future()

            class Child(asyncio.SubprocessProtocol):
                def process_exited(self) -> None:
                    ended.set_result(None)

                def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
                    protocol.connection_lost(exc)

            process, _ = await loop.subprocess_exec(
                Child, *program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            yield process.get_pipe_transport(0)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await ended
            process.close()
            return
        else:
            server_context, client_context = contexts
            made = loop.create_future()

            class Other(asyncio.Protocol):
                def connection_made(self, transport: asyncio.BaseTransport) -> None:
                    made.set_result(transport)

            ours, peer = socket.socketpair()
            serving = asyncio.ensure_future(loop.connect_accepted_socket(Other, peer, ssl=server_context))
            transport, _ = await loop.create_connection(
                lambda: protocol, sock=ours, ssl=client_context, server_hostname="localhost"
            )
            await serving
            other = await made
            stack.callback(other.abort)
        yield transport
        with contextlib.suppress(AttributeError):  # asyncio's, after a private method was called
            transport.abort() if hasattr(transport, "abort") else transport.close()
        for _ in range(4):
            await asyncio.sleep(0)


def shown(value: Any) -> Any:
    """Return the form in which values are compared: a simple value itself, else its type."""
    if isinstance(value, _Protocol):
        return "the protocol"
    if isinstance(value, tuple | list):
        return [shown(item) for item in value]
    if value is None or isinstance(value, str | bytes | int | float):
        return type(value), str(value)
    if isinstance(value, asyncio.Future):
        return "a future"
    return type(value).__name__


def text_of(error: BaseException) -> str:
    # Without the class that defines a method, and without addresses.
    text = re.sub(r"\b[\w.]+\.(\w+\(\))", r"\1", str(error))
    return re.sub(r"0x[0-9a-f]+|(?<=', )\d+(?=\))", "…", text)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return shown(call())
    except Exception as error:
        return type(error), text_of(error)


async def perform(kind: str, method: str, args: tuple[Any, ...], named: dict[str, Any], contexts: Any) -> list[Any]:
    """Call a method of a new transport; return everything observable."""
    heard: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: heard.append((context["message"], type(context.get("exception")), sorted(context)))
    )
    protocol = _Protocol(heard)
    async with opened(kind, protocol, contexts) as transport:
        seen: list[Any] = [outcome(lambda: getattr(transport, method)(*args, **named))]
        for _ in range(3):
            # Once the transport has dropped its protocol, or has another, asyncio's methods fail
            # arbitrarily.
            state = ["is_closing", "is_reading", "get_write_buffer_size", "get_write_buffer_limits", "get_protocol"]
            seen.append([outcome(getattr(transport, name)) for name in state if hasattr(transport, name)])
            await asyncio.sleep(0)
        if hasattr(transport, "get_protocol"):
            transport.set_protocol(protocol)
        seen.append(list(heard))
    return seen


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    # They would come some time after the handshake, and what comes makes a transport look at its
    # limits.
    server.num_tickets = 0
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize("kind", KINDS)
def test_calls_come_out_alike(kind: str, contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import rondel

    if kind == "tls by objects":
        monkeypatch.setenv("RONDEL_TLS", "python-objects")
    differ = []
    with (
        asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as stock,
        asyncio.Runner(loop_factory=rondel.new_event_loop) as ours,
    ):
        methods = METHODS[KINDS[kind]].split() if kind != "subprocess" else ["set_write_buffer_limits"]
        for method in methods:
            for args, named in calls(method)[: 12 if kind == "subprocess" else None]:
                if sys.version_info >= (3, 15) and kind in {"tcp", "unix"} and args == ((b"t", "mixed"),):
                    continue  # asyncio keeps the first piece in the buffer, and nothing sends it
                expected = stock.run(perform(kind, method, args, named, contexts))
                got = ours.run(perform(kind, method, args, named, contexts))
                if got != expected:
                    differ.append(f"{method}(*{args}, **{named}):\n  asyncio {expected}\n  rondel  {got}")
    assert not differ, "\n".join(differ)


def without_types(signature: inspect.Signature) -> inspect.Signature:
    """Return the signature without annotations, which asyncio does not have."""
    parameters = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=signature.empty)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tls by objects"])
def test_signatures_are_alike(kind: str, contexts: Any) -> None:
    import rondel

    async def signatures() -> dict[str, str]:
        async with opened(kind, _Protocol([]), contexts) as transport:
            found = {}
            for name in dir(transport):
                method = getattr(transport, name, None)  # an attribute may be missing
                if callable(method) and not name.startswith("__") and not isinstance(method, type):
                    found[name] = str(without_types(inspect.signature(method)))
            return found

    with (
        asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as stock,
        asyncio.Runner(loop_factory=rondel.new_event_loop) as ours,
    ):
        expected, got = stock.run(signatures()), ours.run(signatures())
    different = {name: (text, got[name]) for name, text in expected.items() if name in got and got[name] != text}
    assert not different
