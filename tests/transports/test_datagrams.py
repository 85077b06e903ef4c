"""Datagram endpoints: IP, Unix and other families; errors, flow control, closing at each moment."""

import asyncio
import contextlib
import gc
import itertools
import os
import socket
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, Any]], Any]
V3_13 = sys.version_info >= (3, 13)


class Recorder(asyncio.DatagramProtocol):
    """Records its calls, and lets a test wait for them."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.addresses: list[Any] = []
        self._waiting: tuple[int, asyncio.Future[None]] | None = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def _note(self, event: Any) -> None:
        self.events.append(event)
        if self._waiting is not None and len(self.events) >= self._waiting[0]:
            self._waiting[1].set_result(None)
            self._waiting = None

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.addresses.append(addr)
        self._note(data)

    def error_received(self, exc: Exception) -> None:
        self._note(exc)

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    async def wait(self, count: int) -> list[Any]:
        """Wait for at least `count` events; return all."""
        if len(self.events) < count:
            future = asyncio.get_running_loop().create_future()
            self._waiting = (count, future)
            await asyncio.wait_for(future, 10)
        return self.events


async def endpoint(**how: Any) -> tuple[Any, Recorder]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Recorder, **how)
    return transport, protocol


async def end(*transports: Any) -> None:
    for transport in transports:
        protocol = transport.get_protocol()
        transport.close()
        if protocol is not None:
            await asyncio.wait_for(protocol.lost, 10)


LOCAL = ("127.0.0.1", 0)
_numbers = itertools.count()


def test_a_connected_and_an_unconnected_endpoint(run: Run, aio: ModuleType) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        address = server.get_extra_info("sockname")
        client, at_client = await endpoint(remote_addr=address)
        assert client.get_extra_info("peername") == address
        assert server.get_extra_info("peername") is None
        assert server.get_extra_info("nothing", 7) == 7
        assert isinstance(client.get_extra_info("socket"), asyncio.trsock.TransportSocket)
        client.sendto(b"one")
        client.sendto(bytearray(b"two"), None)
        client.sendto(memoryview(b"three"), address)
        assert await at_server.wait(3) == [b"one", b"two", b"three"]
        assert at_server.addresses == [client.get_extra_info("sockname")] * 3
        server.sendto(b"answer", at_server.addresses[0])
        assert await at_client.wait(1) == [b"answer"]
        assert at_client.addresses == [address]
        await end(client, server)

    run(main())


def test_what_it_is_an_instance_of_follows_the_version(run: Run) -> None:
    async def main() -> None:
        stock = asyncio.selector_events._SelectorDatagramTransport  # type: ignore[attr-defined]
        transport, _ = await endpoint(local_addr=LOCAL)
        for name in ("DatagramTransport", "Transport", "BaseTransport"):
            base = getattr(asyncio, name)
            assert isinstance(transport, base) is issubclass(stock, base), name
        assert isinstance(transport, asyncio.transports._FlowControlMixin)  # type: ignore[attr-defined]
        assert transport.max_size == stock.max_size
        with pytest.raises(NotImplementedError):
            transport.write(b"x")
        await end(transport)

    run(main())


def test_attributes_that_programs_read(run: Run) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        address = server.get_extra_info("sockname")
        client, _ = await endpoint(remote_addr=address)
        assert type(client._sock) is socket.socket and client._sock.fileno() == client._sock_fd
        assert server._address is None and client._address == address
        assert client._extra["peername"] == address and set(client._extra) == {"socket", "sockname", "peername"}
        assert server._protocol is at_server and server._loop is asyncio.get_running_loop()
        assert list(server._buffer) == [] and server.get_write_buffer_size() == 0
        assert not server._closing and not server._conn_lost and not server._paused and server._server is None
        assert server.get_write_buffer_limits() == (16384, 65536)
        assert "fd=" in repr(server) and "read=polling write=<idle, bufsize=0>" in repr(server)
        client.close()
        assert client._closing and "closing" in repr(client)
        protocol = client.get_protocol()
        await protocol.lost
        await asyncio.sleep(0)
        assert client._sock is None and client._protocol is None and "closed" in repr(client)
        assert client.get_extra_info("peername") == address
        await end(server)

    run(main())


def test_what_sendto_refuses(run: Run) -> None:
    async def main() -> None:
        server, _ = await endpoint(local_addr=LOCAL)
        address = server.get_extra_info("sockname")
        client, at_client = await endpoint(remote_addr=address)
        for wrong, name in (("text", "str"), (None, "NoneType"), (5, "int")):
            with pytest.raises(TypeError) as caught:
                client.sendto(wrong)
            assert str(caught.value) == f"data argument must be a bytes-like object, not {name!r}"
        with pytest.raises(ValueError) as invalid:
            client.sendto(b"x", ("127.0.0.1", 1))
        assert str(invalid.value) == f"Invalid address: must be None or {address}"
        with pytest.raises(TypeError):
            client.sendto()
        await end(client, server)

    run(main())


def test_a_mistaken_address_ends_the_transport(run: Run, problems: list[dict[str, Any]]) -> None:
    async def main() -> None:
        for address, error in ((("127.0.0.1", 70_000), OverflowError), ("127.0.0.1", TypeError)):
            transport, protocol = await endpoint(local_addr=LOCAL)
            transport.sendto(b"x", address)
            assert isinstance(await protocol.lost, error)
            assert problems.pop()["message"] == "Fatal write error on datagram transport"

    run(main())


def test_empty_datagrams_are_sent_from_3_13_on(run: Run) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, _ = await endpoint(remote_addr=server.get_extra_info("sockname"))
        for _ in range(3):
            client.sendto(b"")
        client.sendto(b"x")
        expected = [b"", b"", b"", b"x"] if V3_13 else [b"x"]
        assert await at_server.wait(len(expected)) == expected
        await end(client, server)

    run(main())


def test_more_than_a_batch_arrives_in_order_and_answers_as_well(run: Run) -> None:
    async def main() -> None:
        count = 70
        server, at_server = await endpoint(local_addr=LOCAL)
        client, at_client = await endpoint(remote_addr=server.get_extra_info("sockname"))
        receive = at_server.datagram_received

        def echo(data: bytes, addr: Any) -> None:
            receive(data, addr)
            server.sendto(data.upper(), addr)

        at_server.datagram_received = echo  # type: ignore[method-assign]
        for number in range(count):
            client.sendto(b"x%d" % number)
        assert await at_server.wait(count) == [b"x%d" % number for number in range(count)]
        assert await at_client.wait(count) == [b"X%d" % number for number in range(count)]
        await end(client, server)

    run(main())


def test_names_and_numbers_in_the_address(run: Run) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, _ = await endpoint(local_addr=LOCAL)
        port = server.get_extra_info("sockname")[1]

        class Text(str):
            __slots__ = ()

        class Number(int):
            pass

        for host in ("127.0.0.1", "localhost", Text("127.0.0.1"), "127.1"):
            client.sendto(host.encode(), (host, port))
            client.sendto(b"again", (host, Number(port)))
        expected = [b"127.0.0.1", b"again", b"localhost", b"again", b"127.0.0.1", b"again", b"127.1", b"again"]
        assert await at_server.wait(8) == expected
        await end(client, server)

    run(main())


def test_a_refused_datagram_is_an_error_that_ends_nothing(run: Run) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind(LOCAL)
            address = nobody.getsockname()
        client, at_client = await endpoint(remote_addr=address)
        client.sendto(b"x")
        assert isinstance((await at_client.wait(1))[0], ConnectionRefusedError)
        assert not client.is_closing()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as somebody:
            somebody.bind(address)
            somebody.settimeout(10)
            client.sendto(b"y")
            assert somebody.recv(10) == b"y"
        await end(client)

    run(main())


def test_an_error_is_told_while_sendto_runs(run: Run) -> None:
    async def main() -> None:
        server, _ = await endpoint(local_addr=LOCAL)
        client, at_client = await endpoint(local_addr=LOCAL)
        client.sendto(b"x" * 70_000, server.get_extra_info("sockname"))
        assert [type(event) for event in at_client.events] == [OSError]
        assert not client.is_closing()
        await end(client, server)

    run(main())


def test_an_error_amid_others_costs_only_its_datagram(run: Run) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, at_client = await endpoint(remote_addr=server.get_extra_info("sockname"))
        for data in (b"a", b"b", b"x" * 70_000, b"c"):
            client.sendto(data)
        assert client.get_write_buffer_size() == 0
        assert [type(event) for event in at_client.events] == [OSError]
        assert await at_server.wait(3) == [b"a", b"b", b"c"]
        await end(client, server)

    run(main())


def test_what_error_received_raises_costs_no_other_datagram(run: Run, problems: list[dict[str, Any]]) -> None:
    raised: list[BaseException] = []

    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, at_client = await endpoint(remote_addr=server.get_extra_info("sockname"))

        def fail(exc: Exception) -> None:
            raise KeyError("told")

        at_client.error_received = fail  # type: ignore[method-assign]
        for data in (b"a", b"x" * 70_000, b"b", b"x" * 70_000, b"c"):
            try:
                client.sendto(data)
            except KeyError as error:
                raised.append(error)
        assert await at_server.wait(3) == [b"a", b"b", b"c"]
        await end(client, server)

    run(main())
    # The caller gets the error, or the exception handler if the datagram was queued.
    assert len(raised) + len(problems) == 2
    assert all(type(problem["exception"]) is KeyError for problem in problems)


def test_what_only_the_socket_module_understands_is_sent_at_once_and_in_order(
    run: Run, problems: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(LOCAL)
            receiver.setblocking(False)
            port = receiver.getsockname()[1]
            transport, protocol = await endpoint(local_addr=LOCAL)
            for data in (b"1", b"2"):
                transport.sendto(data, ("127.0.0.1", port))
            transport.sendto(b"3", ("localhost", port))
            assert [receiver.recv(10) for _ in range(3)] == [b"1", b"2", b"3"]
            transport.sendto(b"4", ("127.0.0.1", port))
            transport.sendto(b"5", ("127.0.0.1", 70_000))
            assert transport.is_closing()
            assert receiver.recv(10) == b"4"
            # The socket is open until connection_lost was called.
            transport.sendto(b"6", ("127.0.0.1", port))
            transport.sendto(b"7", ("127.0.0.1", port))
            assert isinstance(await protocol.lost, OverflowError)
            assert [receiver.recv(10) for _ in range(2)] == [b"6", b"7"]

    run(main())
    assert [type(problem["exception"]) for problem in problems] == [OverflowError]


@pytest.mark.parametrize("end_by", ["close", "abort"])
def test_what_was_sent_before_the_end_arrives(run: Run, end_by: str) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, at_client = await endpoint(remote_addr=server.get_extra_info("sockname"))
        for number in range(5):
            client.sendto(b"%d" % number)
        getattr(client, end_by)()
        assert client.is_closing()
        assert await at_client.lost is None
        assert await at_server.wait(5) == [b"0", b"1", b"2", b"3", b"4"]
        client.close()
        client.abort()
        await end(server)

    run(main())


def test_sending_after_the_end_is_no_error(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, at_client = await endpoint(remote_addr=server.get_extra_info("sockname"))
        client.close()
        for _ in range(7):
            client.sendto(b"x")
        await at_client.lost
        await asyncio.sleep(0)
        client.sendto(b"x")
        assert at_server.events == []
        await end(server)

    run(main())
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"].count(
        "socket.send() raised exception."
    ) == 4


def test_closing_while_datagrams_come_and_go(run: Run) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, at_client = await endpoint(remote_addr=server.get_extra_info("sockname"))

        def close_at_once(data: bytes, addr: Any) -> None:
            at_server._note(data)
            server.sendto(b"last", addr)
            server.close()

        at_server.datagram_received = close_at_once  # type: ignore[method-assign]
        for number in range(20):
            client.sendto(b"%d" % number)
        assert await at_server.lost is None
        assert at_server.events == [b"0"]
        assert (await at_client.wait(1))[0] == b"last"
        await end(client)

    run(main())


def test_pausing_amid_many_loses_none(run: Run) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, _ = await endpoint(remote_addr=server.get_extra_info("sockname"))
        receive = at_server.datagram_received

        def pause_at_each_third(data: bytes, addr: Any) -> None:
            if int(data) % 3 == 0:
                server.pause_reading()
                assert not server.is_reading()
            receive(data, addr)

        at_server.datagram_received = pause_at_each_third  # type: ignore[method-assign]
        for number in range(30):
            client.sendto(b"%d" % number)
        for count in range(1, 31, 3):
            await at_server.wait(count)
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(at_server.events) == count, "delivered though reading was paused"
            server.resume_reading()
            server.resume_reading()
        assert await at_server.wait(30) == [b"%d" % number for number in range(30)]
        await end(client, server)

    run(main())


def test_closing_while_paused_delivers_nothing(run: Run) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, _ = await endpoint(remote_addr=server.get_extra_info("sockname"))
        receive = at_server.datagram_received

        def pause(data: bytes, addr: Any) -> None:
            receive(data, addr)
            server.pause_reading()

        at_server.datagram_received = pause  # type: ignore[method-assign]
        for number in range(5):
            client.sendto(b"%d" % number)
        await at_server.wait(1)
        server.close()
        server.resume_reading()
        assert await at_server.lost is None
        assert at_server.events == [b"0"]
        await end(client)

    run(main())


def test_an_exception_in_datagram_received_is_reported_and_costs_nothing(
    run: Run, problems: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, _ = await endpoint(remote_addr=server.get_extra_info("sockname"))
        receive = at_server.datagram_received

        def fail_at_odd_ones(data: bytes, addr: Any) -> None:
            receive(data, addr)
            if int(data) % 2:
                raise KeyError(int(data))

        at_server.datagram_received = fail_at_odd_ones  # type: ignore[method-assign]
        for number in range(6):
            client.sendto(b"%d" % number)
        assert await at_server.wait(6) == [b"%d" % number for number in range(6)]
        assert not server.is_closing()
        await end(client, server)

    run(main())
    assert [problem["exception"].args for problem in problems] == [(1,), (3,), (5,)]
    assert all("_read_ready" in problem["message"] for problem in problems)


def test_leaving_the_loop_amid_many_loses_none(loop: asyncio.AbstractEventLoop) -> None:
    async def start() -> tuple[Any, Recorder, Any]:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, _ = await endpoint(remote_addr=server.get_extra_info("sockname"))
        return server, at_server, client

    server, at_server, client = loop.run_until_complete(start())
    receive = at_server.datagram_received

    def leave(data: bytes, addr: Any) -> None:
        receive(data, addr)
        if data == b"2":
            raise KeyboardInterrupt

    at_server.datagram_received = leave  # type: ignore[method-assign]
    for number in range(6):
        client.sendto(b"%d" % number)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(at_server.wait(6))
    at_server._waiting = None
    assert loop.run_until_complete(at_server.wait(6)) == [b"%d" % number for number in range(6)]
    loop.run_until_complete(end(client, server))


def test_a_replaced_protocol_hears_the_next_datagram(run: Run) -> None:
    async def main() -> None:
        server, first = await endpoint(local_addr=LOCAL)
        client, _ = await endpoint(remote_addr=server.get_extra_info("sockname"))
        second = Recorder()
        receive = first.datagram_received

        def replace(data: bytes, addr: Any) -> None:
            receive(data, addr)
            server.set_protocol(second)

        first.datagram_received = replace  # type: ignore[method-assign]
        client.sendto(b"1")
        client.sendto(b"2")
        assert await second.wait(1) == [b"2"] and first.events == [b"1"]
        assert server.get_protocol() is second
        await end(client, server)

    run(main())


def test_methods_can_be_replaced_on_the_instance(run: Run) -> None:
    async def main() -> None:
        transport, _ = await endpoint(local_addr=LOCAL)
        seen: list[Any] = []
        transport.sendto = lambda *args: seen.append(args)
        transport.sendto(b"x", ("127.0.0.1", 9))
        assert seen == [(b"x", ("127.0.0.1", 9))]
        del transport.sendto
        transport.label = "mine"
        assert transport.label == "mine"
        await end(transport)

    run(main())


def test_a_socket_of_a_subclass_sends_and_receives_in_its_way(run: Run) -> None:
    class Proxied(socket.socket):
        def sendto(self, data: Any, address: Any) -> int:  # type: ignore[override]
            return super().sendto(b"via:" + bytes(data), address)

        def recvfrom(self, *args: Any) -> Any:
            data, address = super().recvfrom(*args)
            return b"from:" + data, address

    async def main() -> None:
        sock = Proxied(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(LOCAL)
        proxied, at_proxied = await endpoint(sock=sock)
        other, at_other = await endpoint(local_addr=LOCAL)
        proxied.sendto(b"x", other.get_extra_info("sockname"))
        assert await at_other.wait(1) == [b"via:x"]
        other.sendto(b"y", at_other.addresses[0])
        assert await at_proxied.wait(1) == [b"from:y"]
        await end(proxied, other)

    run(main())


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6_addresses_have_four_parts(run: Run) -> None:
    async def main() -> None:
        try:
            server, at_server = await endpoint(local_addr=("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        port = server.get_extra_info("sockname")[1]
        client, at_client = await endpoint(local_addr=("::1", 0))
        for address in (("::1", port), ("::1", port, 0), ("::1", port, 0, 0), ("::1", port, 5, 0)):
            client.sendto(b"x", address)
        assert await at_server.wait(4) == [b"x"] * 4
        assert at_server.addresses == [client.get_extra_info("sockname")] * 4
        assert len(at_server.addresses[0]) == 4
        server.sendto(b"y", at_server.addresses[0])
        assert await at_client.wait(1) == [b"y"]
        await end(client, server)

    run(main())


def test_unix_addresses_of_all_kinds(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path, abstract = str(tmp_path / "named"), f"\0rondel-test-{os.getpid()}"
        named, at_named = await endpoint(local_addr=path, family=socket.AF_UNIX)
        hidden, at_hidden = await endpoint(local_addr=abstract, family=socket.AF_UNIX)
        client, at_client = await endpoint(family=socket.AF_UNIX)
        client.sendto(b"unnamed", path)
        assert await at_named.wait(1) == [b"unnamed"] and at_named.addresses == [None]
        hidden.sendto(b"hidden", path)
        assert (await at_named.wait(2))[1:] == [b"hidden"] and at_named.addresses[1] == abstract.encode()
        named.sendto(b"back", at_named.addresses[1])
        assert await at_hidden.wait(1) == [b"back"] and at_hidden.addresses == [path]
        connected, at_connected = await endpoint(remote_addr=path, family=socket.AF_UNIX)
        connected.sendto(b"connected")
        assert (await at_named.wait(3))[2] == b"connected"
        assert connected.get_extra_info("peername") == path
        client.sendto(b"x", str(tmp_path / "nobody"))
        assert isinstance((await at_client.wait(1))[0], FileNotFoundError)
        await end(named, hidden, client, connected)

    run(main())


def test_a_large_unix_datagram_arrives_whole(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / f"large-{next(_numbers)}")
        server, at_server = await endpoint(local_addr=path, family=socket.AF_UNIX)
        client, _ = await endpoint(remote_addr=path, family=socket.AF_UNIX)
        data = bytes(range(256)) * 400
        client.sendto(data)
        client.sendto(b"next")
        assert await at_server.wait(2) == [data, b"next"]
        await end(client, server)

    run(main())


@contextlib.asynccontextmanager
async def to_a_slow_reader(folder: Path) -> AsyncIterator[tuple[Any, Recorder, socket.socket]]:
    """An endpoint whose peer is a plain socket: only the test reads from it."""
    path = str(folder / f"slow-{next(_numbers)}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.setblocking(False)
        theirs.bind(path)
        transport, protocol = await endpoint(remote_addr=path, family=socket.AF_UNIX)
        yield transport, protocol, theirs


def _fill(transport: Any) -> int:
    """Send until datagrams are queued."""
    for count in range(1, 10_000):
        transport.sendto(b"%06d" % count + b"x" * 4000)
        if transport.get_write_buffer_size():
            return count
    raise AssertionError("never full")


def test_flow_control(run: Run, impl: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with to_a_slow_reader(tmp_path) as (transport, protocol, theirs):
            count = _fill(transport)
            header = 8 if V3_13 else 0
            assert transport.get_write_buffer_size() == 4006 + header
            assert [bytes(data[:6]) for data, _ in transport._buffer] == [b"%06d" % count]
            assert "write=<polling" in repr(transport)
            transport.set_write_buffer_limits(high=10_000, low=100)
            assert protocol.events == []
            while not protocol.events:
                count += 1
                transport.sendto(b"%06d" % count + b"x" * 4000)
            assert protocol.events == ["pause"]
            assert transport.get_write_buffer_size() == (4006 + header) * 3
            loop = asyncio.get_running_loop()
            for number in range(1, count + 1):
                data = await asyncio.wait_for(loop.sock_recv(theirs, 5000), 10)
                assert data[:6] == b"%06d" % number
            assert await protocol.wait(2) == ["pause", "resume"]
            transport.sendto(b"at once again")
            assert theirs.recv(100) == b"at once again"
            await end(transport)

    if sys.version_info[:3] == (3, 13, 0) and not impl.is_rondel:
        pytest.skip("this release never takes the headers off again, and so never resumes")
    run(main())


@pytest.mark.parametrize("end_by", ["close", "abort"])
def test_the_end_while_something_waits(run: Run, end_by: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with to_a_slow_reader(tmp_path) as (transport, protocol, theirs):
            count = _fill(transport)
            getattr(transport, end_by)()
            for _ in range(3):
                await asyncio.sleep(0)
            assert protocol.lost.done() is (end_by == "abort")
            expected = count if end_by == "close" else count - 1
            loop = asyncio.get_running_loop()
            for number in range(1, expected + 1):
                data = await asyncio.wait_for(loop.sock_recv(theirs, 5000), 10)
                assert data[:6] == b"%06d" % number
            assert await asyncio.wait_for(protocol.lost, 10) is None
            with pytest.raises(BlockingIOError):
                theirs.recv(1)

    run(main())


def test_a_failing_pause_writing_is_reported(run: Run, problems: list[dict[str, Any]], tmp_path: Path) -> None:
    async def main() -> None:
        async with to_a_slow_reader(tmp_path) as (transport, protocol, _):

            def fail() -> None:
                raise KeyError("pause")

            protocol.pause_writing = fail
            transport.set_write_buffer_limits(high=0)
            _fill(transport)
            assert not transport.is_closing()
            transport.abort()
            await protocol.lost

    run(main())
    assert [problem["message"] for problem in problems] == ["protocol.pause_writing() failed"]


def test_broadcast_and_multicast(run: Run) -> None:
    async def main() -> None:
        transport, protocol = await endpoint(local_addr=LOCAL, allow_broadcast=True)
        assert transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        await end(transport)
        transport, protocol = await endpoint(local_addr=LOCAL)
        transport.sendto(b"x", ("255.255.255.255", 9))
        assert isinstance((await protocol.wait(1))[0], OSError)
        await end(transport)

        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("", 0))
        group = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        listener, at_listener = await endpoint(sock=receiver)
        sender, _ = await endpoint(local_addr=LOCAL)
        option = socket.inet_aton("127.0.0.1")
        sender.get_extra_info("socket").setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, option)
        sender.sendto(b"to all", ("224.0.0.251", listener.get_extra_info("sockname")[1]))
        assert await at_listener.wait(1) == [b"to all"]
        await end(listener, sender)

    run(main())


def test_a_remote_address_without_a_connection(run: Run) -> None:
    # With `allow_broadcast` the socket is not connected, but the address is still the only one
    # allowed.
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        address = server.get_extra_info("sockname")
        client, _ = await endpoint(remote_addr=address, allow_broadcast=True)
        assert client.get_extra_info("peername") is None
        client.sendto(b"1")
        client.sendto(b"2", address)
        assert await at_server.wait(2) == [b"1", b"2"]
        with pytest.raises(ValueError):
            client.sendto(b"3", ("127.0.0.1", 9))
        await end(client, server)

    run(main())


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="no netlink")
def test_netlink(run: Run) -> None:
    async def main() -> None:
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
        except OSError:
            pytest.skip("no netlink here")
        sock.bind((0, 0))
        transport, protocol = await endpoint(sock=sock)
        # RTM_GETLINK, as a dump.
        request = (20).to_bytes(4, sys.byteorder) + (18).to_bytes(2, sys.byteorder)
        request += (0x301).to_bytes(2, sys.byteorder) + bytes(8) + bytes(4)
        transport.sendto(request, (0, 0))
        assert len((await protocol.wait(1))[0]) > 16
        assert protocol.addresses[0] == (0, 0)
        await end(transport)

    run(main())


def test_parameters_that_exclude_each_other(run: Run) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="can not be used when sock is specified"):
                await endpoint(sock=sock, local_addr=LOCAL)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            with pytest.raises(ValueError, match="A (datagram|UDP) [sS]ocket was expected"):
                await endpoint(sock=sock)
        with pytest.raises(ValueError, match="unexpected address family"):
            await endpoint()
        one, _ = await endpoint(local_addr=LOCAL, reuse_port=True)
        other, _ = await endpoint(local_addr=one.get_extra_info("sockname"), reuse_port=True)
        await end(one, other)

    run(main())


def test_the_descriptor_belongs_to_its_transport(run: Run) -> None:
    async def main() -> None:
        transport, _ = await endpoint(local_addr=LOCAL)
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(transport.get_extra_info("socket").fileno(), print)
        await end(transport)

    run(main())


def test_a_forgotten_transport_warns_and_closes(loop: asyncio.AbstractEventLoop) -> None:
    async def forget() -> socket.socket:
        transport, _ = await endpoint(local_addr=LOCAL)
        transport.pause_reading()
        sock: socket.socket = transport._sock
        return sock

    def lose() -> socket.socket:
        sock = loop.run_until_complete(forget())
        gc.collect()
        return sock

    with pytest.warns(ResourceWarning, match="unclosed transport"):
        sock = lose()
    assert sock.fileno() == -1


def test_closed_endpoints_are_freed_at_once(run: Run) -> None:
    async def main() -> None:
        server, at_server = await endpoint(local_addr=LOCAL)
        client, at_client = await endpoint(remote_addr=server.get_extra_info("sockname"))
        client.sendto(b"x")
        await at_server.wait(1)
        seen = [weakref.ref(thing) for thing in (server, at_server, client, at_client)]
        await end(client, server)
        await asyncio.sleep(0)
        del server, at_server, client, at_client
        gc.collect()
        assert [ref() for ref in seen] == [None] * 4

    run(main())


@pytest.mark.one_mode
def test_each_datagram_to_an_address_is_audited(run: Run) -> None:
    """Also for datagrams that are sent together. A hook that raises closes the transport."""
    seen: list[Any] = []
    on = [True]

    def hook(event: str, args: Any) -> None:
        if on and event == "socket.sendto":
            seen.append(args[1])
            if args[1][1] == 7:
                raise RuntimeError("refused by a hook")

    sys.addaudithook(hook)  # forever, so that it does nothing afterwards

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        reported: list[Any] = []
        loop.set_exception_handler(lambda _, context: reported.append((context["message"], repr(context["exception"]))))
        transport, recorder = await loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
        address = transport.get_extra_info("sockname")
        for number in range(3):
            transport.sendto(b"%d" % number, address)
        assert seen == [address] * 3
        connected, _ = await loop.create_datagram_endpoint(Recorder, remote_addr=address)
        connected.sendto(b"sent, and not sent to")
        assert seen == [address] * 3
        transport.sendto(b"refused", ("127.0.0.1", 7))
        assert transport.is_closing() and seen[3:] == [("127.0.0.1", 7)]
        connected.close()
        return [*reported, repr(await recorder.lost)]

    expected = "RuntimeError('refused by a hook')"
    assert run(main()) == [("Fatal write error on datagram transport", expected), expected]
    on.clear()
