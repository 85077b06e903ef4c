"""TLS transports behave like asyncio's, on both data paths.

Direct OpenSSL calls, and Python's objects.
"""

import asyncio
import collections
import contextlib
import gc
import hashlib
import itertools
import os
import shutil
import socket
import ssl
import sys
import threading

import pytest
from unseen import waits_unseen

trustme = pytest.importorskip("trustme", reason="certificates are made with trustme (tests/requirements.txt)")


def pytest_generate_tests(metafunc):
    metafunc.parametrize("pump", ["openssl", "python-objects"], indirect=True)


@pytest.fixture(autouse=True)
def pump(request, monkeypatch):
    if request.param == "python-objects":
        monkeypatch.setenv("RONDEL_TLS", "python-objects")
    else:
        monkeypatch.delenv("RONDEL_TLS", raising=False)
    return request.param


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture(scope="session")
def certificates(authority):
    return {name: authority.issue_cert(name) for name in ("localhost", "other.test", "client@example.org")}


@pytest.fixture
def server_context(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates["localhost"].configure_cert(context)
    return context


@pytest.fixture
def client_context(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


class Recorder(asyncio.Protocol):
    """Records its calls."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.calls = []
        self.data = bytearray()
        self.made = loop.create_future()
        self.lost = loop.create_future()
        self.changed = asyncio.Event()
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")
        self.made.set_result(transport)

    def data_received(self, data):
        assert type(data) is bytes
        self.data += data
        self.changed.set()

    def eof_received(self):
        self.calls.append("eof")
        self.changed.set()

    def pause_writing(self):
        self.calls.append("pause")
        self.changed.set()

    def resume_writing(self):
        self.calls.append("resume")
        self.changed.set()

    def connection_lost(self, exc):
        self.calls.append(("lost", type(exc)))
        self.lost.set_result(exc)

    async def until(self, what):
        while not what():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 10)


async def connected(aio, server_context, client_context, protocols=Recorder, server_options=None, **options):
    """Return a client and a server, connected by a socket pair."""
    loop = aio.get_running_loop()
    left, right = socket.socketpair()
    server, client = protocols(), Recorder()
    accepted = loop.create_task(
        loop.connect_accepted_socket(lambda: server, right, ssl=server_context, **(server_options or {}))
    )
    await loop.create_connection(lambda: client, sock=left, ssl=client_context, server_hostname="localhost", **options)
    await accepted
    return client, server


async def end(*protocols):
    for protocol in protocols:
        protocol.transport.close()
    for protocol in protocols:
        await asyncio.wait_for(protocol.lost, 10)


def test_the_way_that_was_asked_for(run, aio, impl, pump, server_context, client_context):
    async def main():
        client, server = await connected(aio, server_context, client_context)
        if impl.is_rondel:
            free_threaded = not getattr(sys, "_is_gil_enabled", lambda: True)()
            direct = pump == "openssl" and not free_threaded
            assert client.transport._ssl_protocol._direct is direct
            assert server.transport._ssl_protocol._direct is direct
        await end(client, server)

    run(main())


def test_the_transport_as_programs_see_it(run, aio, server_context, client_context):
    async def main():
        client, server = await connected(aio, server_context, client_context)
        transport = client.transport
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.sslproto._SSLProtocolTransport)
        assert isinstance(transport._ssl_protocol, asyncio.sslproto.SSLProtocol)
        assert "ssl" in type(transport).__name__.lower()
        assert transport.get_extra_info("sslcontext") is client_context
        assert transport._ssl_protocol._sslcontext is client_context
        assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        assert transport.get_extra_info("ssl_object").server_hostname == "localhost"
        assert transport.get_extra_info("peercert")["subjectAltName"] == (("DNS", "localhost"),)
        assert server.transport.get_extra_info("peercert") is None
        assert len(transport.get_extra_info("cipher")) == 3
        assert transport.get_extra_info("compression") is None
        assert transport.get_extra_info("socket").family == socket.AF_UNIX
        assert transport.get_extra_info("nothing", 7) == 7
        assert transport.get_protocol() is client
        assert transport.can_write_eof() is False
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got str"):
            transport.write("text")
        assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
        transport.set_write_buffer_limits(high=4096)
        assert transport.get_write_buffer_limits() == (1024, 4096)
        with pytest.raises(ValueError, match=r"high \(1\) must be >= low \(2\) must be >= 0"):
            transport.set_write_buffer_limits(1, 2)
        assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
        assert transport.get_read_buffer_size() == 0
        assert transport.get_write_buffer_size() == 0
        assert transport.is_reading()
        assert not transport.is_closing()
        await end(client, server)
        assert transport.is_closing()
        transport.close()
        transport.abort()

    run(main())


def test_what_is_written_arrives(run, aio, server_context, client_context):
    async def main():
        client, server = await connected(aio, server_context, client_context)
        expected, changing = b"", bytearray(b"mutable")
        client.transport.write(b"")
        client.transport.writelines([b"a", bytearray(b"b"), memoryview(b"c"), b""])
        client.transport.write(changing)
        changing[:] = b"changed"
        client.transport.write(memoryview(b"view"))
        expected += b"abcmutableview"
        for size in (1, 100, 16383, 16384, 16385, 40_000, 300_000):
            data = os.urandom(size)
            client.transport.write(data)
            expected += data
        for number in range(300):
            client.transport.write(b"%d" % number)
            expected += b"%d" % number
        await server.until(lambda: len(server.data) >= len(expected))
        assert server.data == expected
        await end(client, server)

    run(main())


def test_what_a_turn_writes_leaves_together(run, aio, impl, server_context, client_context):
    """asyncio sends each write at once."""

    async def main():
        client, server = await connected(aio, server_context, client_context)
        peer = server.transport.get_extra_info("socket").fileno()
        await asyncio.sleep(0.01)  # the data after the handshake has arrived
        sent = []
        while len(sent) < 20:
            client.transport.write(b"a")
            client.transport.write(b"b")
            sent.append(waits_unseen(peer))
            await server.until(lambda: len(server.data) == 2 * len(sent))
        # On a busy machine a step may last so long that it sends.
        assert not all(sent) if impl.is_rondel else all(sent)
        await end(client, server)

    run(main())


def test_closing_sends_what_was_written(run, aio, server_context, client_context):
    async def main():
        client, server = await connected(aio, server_context, client_context)
        data = os.urandom(2_000_000)
        client.transport.write(data)
        client.transport.close()
        client.transport.write(b"too late")
        assert client.transport.is_closing()
        assert await server.lost is None
        assert server.data == data
        assert await client.lost is None
        assert server.calls == ["made", "eof", ("lost", type(None))]

    run(main())


def test_aborting_ends_at_once(run, aio, server_context, client_context):
    async def main():
        client, server = await connected(aio, server_context, client_context)
        client.transport.write(b"written before")
        client.transport.abort()
        assert client.transport.is_closing()
        assert await client.lost is None
        await server.lost
        assert server.data == b"written before"

    run(main())


def test_writes_to_what_has_ended_are_warned_of(run, aio, caplog, server_context, client_context):
    async def main():
        client, server = await connected(aio, server_context, client_context)
        await end(client, server)
        client.transport = None
        transport = server.made.result()
        for _ in range(8):
            transport.write(b"x")

    run(main())
    assert [record.message for record in caplog.records if record.levelname == "WARNING"].count(
        "SSL connection is closed"
    ) == 4


def test_flow_control(run, aio, server_context, client_context):
    async def main():
        client, server = await connected(aio, server_context, client_context)
        server.transport.pause_reading()
        assert not server.transport.is_reading()
        data = os.urandom(4_000_000)
        client.transport.write(data[:3_000_000])
        assert client.calls == ["made"]  # all of it was passed to the lower transport
        client.transport.write(data[3_000_000:])
        assert client.calls == ["made", "pause"]
        assert client.transport.get_write_buffer_size() > 512 * 1024
        await aio.sleep(0.01)
        assert not server.data
        server.transport.resume_reading()
        await server.until(lambda: len(server.data) == len(data))
        assert hashlib.sha256(server.data).digest() == hashlib.sha256(data).digest()
        await client.until(lambda: client.calls[-1] == "resume")
        assert client.calls == ["made", "pause", "resume"]
        await end(client, server)

    run(main())


def test_pausing_while_data_is_received(run, aio, server_context, client_context):
    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async def main():
        client, server = await connected(aio, server_context, client_context, Pausing)
        client.transport.write(b"first")
        await server.until(lambda: server.data == b"first")
        client.transport.write(b"second")
        for _ in range(10):
            await aio.sleep(0)
        assert server.data == b"first"
        server.transport.resume_reading()
        await server.until(lambda: server.data == b"firstsecond")
        await end(client, server)

    run(main())


@pytest.mark.parametrize("room", [1, 100, 70_000])
def test_a_buffered_protocol(run, aio, server_context, client_context, room):
    class Buffered(Recorder, asyncio.BufferedProtocol):
        def __init__(self):
            super().__init__()
            self.buffer = bytearray(room)

        def get_buffer(self, sizehint):
            return memoryview(self.buffer)  # asyncio reads into slices of it

        def buffer_updated(self, nbytes):
            self.data_received(bytes(self.buffer[:nbytes]))

    async def main():
        client, server = await connected(aio, server_context, client_context, Buffered)
        data = os.urandom(500 * min(room, 1000))
        client.transport.write(data)
        await server.until(lambda: len(server.data) == len(data))
        assert server.data == data
        server.transport.write(b"answer")
        await client.until(lambda: client.data == b"answer")
        client.transport.close()
        await server.lost
        assert server.calls == ["made", "eof", ("lost", type(None))]
        await client.lost

    run(main())


def test_a_protocol_that_wants_to_stay_open_is_warned(run, aio, caplog, server_context, client_context):
    class Staying(Recorder):
        def eof_received(self):
            super().eof_received()
            return True

    async def main():
        client, server = await connected(aio, server_context, client_context, Staying)
        client.transport.close()
        assert await server.lost is None
        await client.lost

    run(main())
    assert "returning true from eof_received() has no effect when using ssl" in caplog.messages


@pytest.mark.parametrize("where", ["data_received", "eof_received", "pause_writing"])
def test_a_protocol_that_raises(run, aio, problems, server_context, client_context, where):
    class Raising(Recorder):
        def data_received(self, data):
            if where == "pause_writing":
                self.transport.set_write_buffer_limits(0)
                self.transport.write(b"x")
            super().data_received(data)
            if where == "data_received":
                raise ValueError("expected")

        def eof_received(self):
            super().eof_received()
            if where == "eof_received":
                raise ValueError("expected")

        def pause_writing(self):
            raise ValueError("expected")

    async def main():
        client, server = await connected(aio, server_context, client_context, Raising)
        client.transport.write(b"x")
        await server.until(lambda: server.data)
        client.transport.close()
        exc = await server.lost
        if where != "pause_writing":
            assert type(exc) is ValueError
        await client.lost
        if where == "pause_writing":
            assert all(problem["protocol"] is server.made.result()._ssl_protocol for problem in problems)

    run(main())
    messages = {
        "data_received": "Fatal error on SSL protocol",
        "eof_received": "Error calling eof_received()",
        "pause_writing": "protocol.pause_writing() failed",
    }
    assert problems
    assert {problem["message"] for problem in problems} == {messages[where]}
    assert {str(problem["exception"]) for problem in problems} == {"expected"}


def test_an_attribute_over_a_method_is_honoured(run, aio, server_context, client_context):
    async def handle(reader, writer):
        written = []
        write = writer.transport.write

        def noting(data):
            written.append(data)
            write(data)

        writer.transport.write = noting
        writer.write(await reader.readline())
        await writer.drain()
        assert written == [b"line\n"]
        writer.close()

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0, ssl=server_context) as server:
            reader, writer = await aio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
            )
            writer.write(b"line\n")
            assert await reader.read() == b"line\n"
            writer.close()
            await writer.wait_closed()

    run(main())


# ---- options of the context ----


def test_alpn(run, aio, server_context, client_context):
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    client_context.set_alpn_protocols(["http/1.1"])

    async def main():
        client, server = await connected(aio, server_context, client_context)
        for side in (client, server):
            assert side.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        await end(client, server)

    run(main())


def test_the_name_that_the_client_asks_for(run, aio, problems, certificates, server_context, client_context):
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates["other.test"].configure_cert(other)
    asked = []

    def choose(connection, name, context):
        asked.append(name)
        assert context is server_context
        if name == "other.test":
            connection.context = other
        elif name != "localhost":
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    server_context.sni_callback = choose

    async def main():
        async with await aio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=server_context) as server:
            address = server.sockets[0].getsockname()
            for name in ("localhost", "other.test"):
                _, writer = await aio.open_connection(*address, ssl=client_context, server_hostname=name)
                assert writer.get_extra_info("peercert")["subjectAltName"] == (("DNS", name),)
                writer.close()
                await writer.wait_closed()
            # asyncio's servers close the connection without sending the alert.
            with pytest.raises(ConnectionResetError):
                await aio.open_connection(*address, ssl=client_context, server_hostname="third.test")

    run(main())
    assert asked == ["localhost", "other.test", "third.test"]


def test_certificates_of_clients(run, aio, problems, authority, certificates, server_context, client_context):
    server_context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server_context)
    seen = []

    async def handle(reader, writer):
        seen.append(writer.get_extra_info("peercert"))
        writer.write(b"welcome")
        writer.close()

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0, ssl=server_context) as server:
            address = server.sockets[0].getsockname()
            # With TLS 1.3 a client's handshake ends before the server checks it. The client sees
            # only the end.
            reader, writer = await aio.open_connection(*address, ssl=client_context, server_hostname="localhost")
            with contextlib.suppress(ssl.SSLError, ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ssl.SSLError, ConnectionResetError):
                await writer.wait_closed()
            certificates["client@example.org"].configure_cert(client_context)
            reader, writer = await aio.open_connection(*address, ssl=client_context, server_hostname="localhost")
            assert await reader.read() == b"welcome"
            writer.close()
            await writer.wait_closed()

    run(main())
    assert [certificate["subjectAltName"] for certificate in seen] == [(("email", "client@example.org"),)]


def test_versions_and_ciphers(run, aio, problems, server_context, client_context):
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    client_context.set_ciphers("ECDHE+CHACHA20")

    async def main():
        client, server = await connected(aio, server_context, client_context)
        assert client.transport.get_extra_info("cipher")[:2] == ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLSv1.2") or (
            "CHACHA20" in client.transport.get_extra_info("cipher")[0]
        )
        client.transport.write(b"x" * 100_000)
        await server.until(lambda: len(server.data) == 100_000)
        await end(client, server)
        server_context.minimum_version = ssl.TLSVersion.TLSv1_3
        async with await aio.start_server(print, "127.0.0.1", 0, ssl=server_context) as listening:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await aio.open_connection(
                    *listening.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
                )

    run(main())


def test_keys_are_logged_and_messages_told(run, aio, tmp_path, server_context, client_context):
    log = tmp_path / "keys"
    client_context.keylog_filename = str(log)
    told = []
    server_context._msg_callback = lambda *args: told.append(args)

    async def main():
        client, server = await connected(aio, server_context, client_context)
        client.transport.write(b"x")
        await server.until(lambda: server.data)
        before = len(told)
        server.transport.write(b"y")
        await client.until(lambda: client.data)
        assert len(told) > before
        await end(client, server)

    run(main())
    client_context.keylog_filename = None
    assert "CLIENT_TRAFFIC_SECRET_0" in log.read_text()


# ---- unexpected ends ----


def test_a_handshake_that_never_comes_is_given_up(run, aio, problems, server_context):
    lost = []

    class Never(asyncio.Protocol):
        def connection_made(self, transport):
            lost.append("made")

    async def main():
        loop = aio.get_running_loop()
        server = await loop.create_server(Never, "127.0.0.1", 0, ssl=server_context, ssl_handshake_timeout=0.05)
        address = server.sockets[0].getsockname()
        with socket.create_connection(address) as silent:
            silent.setblocking(False)
            assert await loop.sock_recv(silent, 1) == b""
        server.close()
        await server.wait_closed()

    run(main())
    assert not lost
    assert {str(problem["exception"]) for problem in problems} <= {
        "SSL handshake is taking longer than 0.05 seconds: aborting the connection"
    }


@pytest.mark.parametrize("argument", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
def test_timeouts_must_be_positive(run, aio, client_context, argument):
    async def main():
        left, right = socket.socketpair()
        with left, right, pytest.raises(ValueError, match=f"{argument} should be a positive number, got 0"):
            await aio.get_running_loop().create_connection(
                Recorder, sock=left, ssl=client_context, server_hostname="x", **{argument: 0}
            )

    run(main())


def test_a_peer_that_never_answers_the_end(run, aio, server_context, client_context):
    """The peer completes the handshake, and is silent then."""
    left, right = socket.socketpair()
    release = threading.Event()

    def peer():
        with server_context.wrap_socket(right, server_side=True):
            release.wait(10)

    async def main():
        thread = threading.Thread(target=peer)
        thread.start()
        client = Recorder()
        await aio.get_running_loop().create_connection(
            lambda: client, sock=left, ssl=client_context, server_hostname="localhost", ssl_shutdown_timeout=0.05
        )
        client.transport.close()
        exc = await client.lost
        assert type(exc) is TimeoutError
        assert str(exc) == "SSL shutdown timed out"
        release.set()
        await aio.to_thread(thread.join)

    run(main())


def test_a_connection_that_ends_without_saying_so(run, aio, server_context, client_context):
    left, right = socket.socketpair()

    def peer():
        connection = server_context.wrap_socket(right, server_side=True)
        connection.sendall(b"the beginning")
        connection.detach()
        os.close(right_fd)

    right_fd = right.fileno()

    async def main():
        thread = threading.Thread(target=peer)
        thread.start()
        client = Recorder()
        await aio.get_running_loop().create_connection(
            lambda: client, sock=left, ssl=client_context, server_hostname="localhost"
        )
        await client.lost
        assert client.data == b"the beginning"
        await aio.to_thread(thread.join)
        return client.calls

    assert run(main()) == ["made", "eof", ("lost", type(None))]


def test_a_record_that_was_changed_on_its_way(run, aio, server_context, client_context):
    """A bit is flipped on the way."""
    # From 3.2 on OpenSSL adds a second, less specific error, and the module ssl reads the last one.
    what = "decryption failed or bad record mac" if ssl.OPENSSL_VERSION_INFO < (3, 2) else "record layer failure"
    left, between = socket.socketpair()
    other, right = socket.socketpair()
    changes = threading.Event()

    def relay(source, target, may_change):
        with contextlib.suppress(OSError):  # one side is closed
            while data := source.recv(65536):
                if may_change and changes.is_set():
                    data = data[:-1] + bytes([data[-1] ^ 1])
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    async def main():
        loop = aio.get_running_loop()
        relays = [
            threading.Thread(target=relay, args=(between, other, True)),
            threading.Thread(target=relay, args=(other, between, False)),
        ]
        for thread in relays:
            thread.start()
        client, server = Recorder(), Recorder()
        accepted = loop.create_task(loop.connect_accepted_socket(lambda: server, right, ssl=server_context))
        await loop.create_connection(lambda: client, sock=left, ssl=client_context, server_hostname="localhost")
        await accepted
        client.transport.write(b"good")
        await server.until(lambda: server.data == b"good")
        changes.set()
        client.transport.write(b"bad")
        exc = await server.lost
        assert server.data == b"good"
        assert type(exc) is ssl.SSLError
        assert exc.library == "SSL"
        assert exc.reason == what.upper().replace(" ", "_")
        assert f"{what} (_ssl.c:" in str(exc)
        client.transport.abort()
        await client.lost
        for thread in relays:
            await aio.to_thread(thread.join)
        between.close()
        other.close()

    run(main())


def test_cancelled_at_any_await_of_the_handshake(run, aio, server_context, client_context, problems):
    async def main():
        loop = aio.get_running_loop()
        for steps in itertools.count():
            left, right = socket.socketpair()
            server = Recorder()
            accepting = loop.create_task(
                loop.connect_accepted_socket(lambda server=server: server, right, ssl=server_context)
            )
            client = Recorder()
            connecting = loop.create_task(
                loop.create_connection(
                    lambda client=client: client, sock=left, ssl=client_context, server_hostname="localhost"
                )
            )
            for _ in range(steps):
                await aio.sleep(0)
            done = connecting.done()
            connecting.cancel()
            (outcome,) = await aio.gather(connecting, return_exceptions=True)
            if done:
                await accepting
                await end(client, server)
                return
            assert type(outcome) is asyncio.CancelledError
            if client.made.done():
                await client.lost
            for _ in range(3):
                await aio.sleep(0)
            left.close()  # asyncio does not close it if connecting did not start
            (outcome,) = await aio.gather(accepting, return_exceptions=True)
            if type(outcome) is tuple:
                await server.lost
            else:
                assert isinstance(outcome, ConnectionError)
            assert steps < 200

    run(main())


# ---- start_tls ----


def test_start_tls_with_the_handshake_already_there(run, aio, server_context, client_context):
    async def main():
        loop = aio.get_running_loop()
        left, right = socket.socketpair()
        server, client = Recorder(), Recorder()
        plain, _ = await loop.create_connection(lambda: server, sock=right)
        below, _ = await loop.create_connection(lambda: client, sock=left)
        plain.pause_reading()
        securing = loop.create_task(loop.start_tls(below, client, client_context, server_hostname="localhost"))
        await aio.sleep(0.02)
        plain.resume_reading()
        secured = await loop.start_tls(plain, server, server_context, server_side=True)
        secure = await securing
        assert secure is not below
        assert secure.get_extra_info("ssl_object") is not None
        assert client.calls == ["made"]
        secure.write(b"secret")
        await server.until(lambda: server.data == b"secret")
        secured.write(b"answer")
        await client.until(lambda: client.data == b"answer")
        secure.close()
        assert await client.lost is None
        assert await server.lost is None

    run(main())


def test_tls_in_tls(run, aio, server_context, client_context):
    async def main():
        loop = aio.get_running_loop()
        client, server = await connected(aio, server_context, client_context)
        inner, inmost = await aio.gather(
            loop.start_tls(client.transport, client, client_context, server_hostname="localhost"),
            loop.start_tls(server.transport, server, server_context, server_side=True),
        )
        data = os.urandom(300_000)
        inner.write(data)
        await server.until(lambda: len(server.data) == len(data))
        assert server.data == data
        inmost.write(b"answer")
        await client.until(lambda: client.data == b"answer")
        inner.close()
        assert await client.lost is None
        await server.lost

    run(main())


def test_start_tls_that_fails(run, aio, problems, client_context):
    async def main():
        loop = aio.get_running_loop()
        left, right = socket.socketpair()
        client = Recorder()
        plain, _ = await loop.create_connection(lambda: client, sock=left)
        right.send(b"this is no TLS at all, and long enough for a record")
        with pytest.raises(ssl.SSLError) as wrong:
            await loop.start_tls(plain, client, client_context, server_hostname="localhost")
        assert wrong.value.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
        assert plain.is_closing()
        right.close()
        for _ in range(3):
            await aio.sleep(0)

    run(main())


# ---- servers ----


def test_a_server_counts_its_connections(run, aio, server_context, client_context):
    async def main():
        loop = aio.get_running_loop()
        made = []

        def factory():
            made.append(Recorder())
            return made[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()
        clients = [Recorder() for _ in range(5)]
        await aio.gather(
            *(
                loop.create_connection(
                    lambda client=client: client, *address, ssl=client_context, server_hostname="localhost"
                )
                for client in clients
            )
        )
        for protocol in made:
            await protocol.made
            assert protocol.transport.get_extra_info("peername")[0] == "127.0.0.1"
        server.close()
        waiting = loop.create_task(server.wait_closed())
        await aio.sleep(0)
        if sys.version_info >= (3, 12):
            assert not waiting.done()
        await end(*clients)
        await waiting
        for protocol in made:
            await protocol.lost

    run(main())


def test_over_unix_sockets(run, aio, tmp_path, server_context, client_context):
    async def handle(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()

    async def main():
        path = str(tmp_path / "socket")
        async with await aio.start_unix_server(handle, path, ssl=server_context):
            reader, writer = await aio.open_unix_connection(path, ssl=client_context, server_hostname="localhost")
            writer.write(b"quiet\n")
            assert await reader.read() == b"QUIET\n"
            writer.close()
            await writer.wait_closed()

    run(main())


def test_nothing_is_left_of_a_connection(run, aio, server_context, client_context):
    async def handle(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def visit():
        async with await aio.start_server(handle, "127.0.0.1", 0, ssl=server_context) as server:
            for _ in range(3):
                reader, writer = await aio.open_connection(
                    *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
                )
                writer.write(b"x" * 100_000)
                assert await reader.readexactly(100_000) == b"x" * 100_000
                writer.close()
                await writer.wait_closed()

    def objects():
        gc.collect()
        return collections.Counter(
            type(each).__qualname__
            for each in gc.get_objects()
            if type(each).__module__.partition(".")[0] in ("asyncio", "rondel") or isinstance(each, ssl.SSLObject)
        )

    run(visit())
    before = objects()
    run(visit())
    assert not objects() - before


def test_no_cycle_keeps_a_connection(run, aio, server_context, client_context):
    async def main():
        client, server = await connected(aio, server_context, client_context)
        await end(client, server)
        for _ in range(3):
            await aio.sleep(0)

    def alive():
        kinds = ("SSLProtocol", "SSLTransport", "_SSLProtocolTransport", "SSLObject")
        return [each for each in gc.get_objects() if type(each).__name__ in kinds]

    gc.collect()
    before = len(alive())
    gc.disable()
    try:
        run(main())
        assert len(alive()) == before
    finally:
        gc.enable()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is not there")
def test_against_openssl_itself(run, aio, tmp_path, authority, server_context):
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(trusted)

    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(line[::-1])
            await writer.drain()
        writer.close()

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0, ssl=server_context) as server:
            port = server.sockets[0].getsockname()[1]
            program = await asyncio.create_subprocess_exec(
                *("openssl", "s_client", "-quiet", "-verify_return_error", "-servername", "localhost"),
                *("-CAfile", str(trusted), "-connect", f"127.0.0.1:{port}"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            for text in (b"abc\n", b"x" * 50_000 + b"\n"):
                program.stdin.write(text)
                answer = await asyncio.wait_for(program.stdout.readexactly(len(text)), 10)
                assert answer == text[::-1]
            program.kill()
            await program.wait()
            program._transport.close()

    run(main())
