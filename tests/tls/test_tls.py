"""TLS over the loop's transports: handshake, data, closing, start_tls, refusals."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys

import pytest
from child_programs import LOOPS

trustme = pytest.importorskip("trustme", reason="certificates are made with trustme (tests/requirements.txt)")


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture(scope="session")
def server_context(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_context(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


async def echo(reader, writer):
    try:
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


def test_echo(run, aio, server_context, client_context):
    async def main():
        async with await aio.start_server(echo, "127.0.0.1", 0, ssl=server_context) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await aio.open_connection(
                "127.0.0.1", port, ssl=client_context, server_hostname="localhost"
            )
            for size in (1, 100, 16384, 1_000_000):
                data = os.urandom(size)
                writer.write(data)
                await writer.drain()
                assert await reader.readexactly(size) == data
            assert isinstance(writer.get_extra_info("ssl_object"), ssl.SSLObject)
            assert writer.get_extra_info("sslcontext") is client_context
            assert writer.get_extra_info("cipher")
            assert writer.get_extra_info("peercert")["subjectAltName"]
            assert writer.get_extra_info("peername") == ("127.0.0.1", port)
            assert writer.can_write_eof() is False
            writer.close()
            await writer.wait_closed()

    run(main())


def test_a_certificate_that_is_not_trusted(run, aio, problems, server_context):
    async def main():
        async with await aio.start_server(echo, "127.0.0.1", 0, ssl=server_context) as server:
            address = server.sockets[0].getsockname()
            with pytest.raises(ssl.SSLCertVerificationError):
                await aio.open_connection(*address, ssl=True, server_hostname="localhost")
            await aio.sleep(0.01)  # the server notices later

    run(main())
    assert {type(context["exception"]) for context in problems} <= {ssl.SSLError, ConnectionResetError}


def test_the_wrong_name(run, aio, problems, server_context, client_context):
    async def main():
        async with await aio.start_server(echo, "127.0.0.1", 0, ssl=server_context) as server:
            address = server.sockets[0].getsockname()
            with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
                await aio.open_connection(*address, ssl=client_context, server_hostname="other.test")
            await aio.sleep(0.01)

    run(main())
    assert {type(context["exception"]) for context in problems} <= {ssl.SSLError, ConnectionResetError}


def test_the_server_closes(run, aio, server_context, client_context):
    async def handle(reader, writer):
        writer.write(b"the end")
        writer.close()
        await writer.wait_closed()

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0, ssl=server_context) as server:
            reader, writer = await aio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
            )
            assert await reader.read() == b"the end"
            writer.close()
            await writer.wait_closed()

    run(main())


def test_a_handshake_that_never_comes(run, aio, client_context):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as silent:
            with pytest.raises(ConnectionAbortedError, match=r"SSL handshake is taking longer than 0\.05 seconds"):
                await aio.open_connection(
                    *silent.getsockname(), ssl=client_context, server_hostname="localhost", ssl_handshake_timeout=0.05
                )

    run(main())


def test_start_tls_on_streams(run, aio, server_context, client_context):
    async def handle(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.drain()
        await writer.start_tls(server_context)
        assert await reader.readline() == b"secret\n"
        writer.write(b"kept\n")
        await writer.drain()
        writer.close()

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"go\n"
            await writer.start_tls(client_context, server_hostname="localhost")
            writer.write(b"secret\n")
            assert await reader.readline() == b"kept\n"
            assert writer.get_extra_info("ssl_object") is not None
            writer.close()
            await writer.wait_closed()

    run(main())


def test_start_tls_of_the_loop(run, aio, server_context, client_context):
    class Waits(asyncio.Protocol):
        def __init__(self):
            self.made = asyncio.get_running_loop().create_future()
            self.got = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            self.made.set_result(transport)

        def data_received(self, data):
            self.got.set_result(data)

    async def main():
        loop = aio.get_running_loop()
        left, right = socket.socketpair()
        plain, client = await loop.create_connection(Waits, sock=left)
        other, server = await loop.create_connection(Waits, sock=right)
        secure, secured = await aio.gather(
            loop.start_tls(plain, client, client_context, server_hostname="localhost"),
            loop.start_tls(other, server, server_context, server_side=True),
        )
        secure.write(b"through")
        assert await server.got == b"through"
        secure.close()
        secured.close()
        await aio.sleep(0.01)
        with pytest.raises(TypeError, match=r"sslcontext is expected to be an instance of ssl\.SSLContext, got None"):
            await loop.start_tls(plain, client, None)

    run(main())


WITHOUT_TLS = """
async def main():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1") as server:
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello")
        writer.write_eof()
        print(await reader.read())
        try:
            await asyncio.open_connection(*address, ssl=True)
        except RuntimeError as error:
            print(error)
        try:
            await asyncio.get_running_loop().start_tls(writer.transport, asyncio.Protocol(), object())
        except RuntimeError as error:
            print(error)
        writer.close()
        await writer.wait_closed()
    # Up to 3.11 a handler that is cancelled is complained about.
    if handlers := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(handlers)

asyncio.run(main())
"""


def test_an_interpreter_that_has_no_ssl(impl):
    text = "import sys\nsys.modules['ssl'] = None\n" + LOOPS[impl.name] + WITHOUT_TLS
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == [
        "b'hello'",
        "stdlib ssl module not available",
        "Python ssl module is not available",
    ]
