"""aiohttp: its server and its client, over TCP, TLS and Unix sockets."""

import asyncio
from pathlib import Path

import aiohttp
import aiohttp_app
import httpx
import pytest
from aiohttp import web
from processes import PYTHON, RONDEL
from use_asgi import RONDELS


@pytest.fixture(params=["tcp", "tls", "unix"])
def way_there(request, certificate, tmp_path):
    """The server's and the client's options, and the URL."""
    if request.param == "unix":
        path = str(tmp_path / "socket")
        return lambda runner: web.UnixSite(runner, path), lambda: aiohttp.UnixConnector(path), "http://server"
    server, client = (certificate.server, certificate.client) if request.param == "tls" else (None, None)
    scheme = "https" if request.param == "tls" else "http"

    def site(runner):
        return web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server)

    return site, lambda: aiohttp.TCPConnector(ssl=client or True), f"{scheme}://localhost"


async def serve(site):
    runner = web.AppRunner(aiohttp_app.make())
    await runner.setup()
    await site(runner).start()
    return runner


def test_server_and_client(run, way_there):
    site, connector, base = way_there

    async def main():
        runner = await serve(site)
        address = runner.addresses[0]
        url = f"{base}:{address[1]}" if isinstance(address, tuple) else base
        body = bytes(range(256)) * 4000
        async with aiohttp.ClientSession(connector=connector(), timeout=aiohttp.ClientTimeout(20)) as session:
            async with session.get(f"{url}/stream") as response:
                assert await response.read() == b"".join(b"%d," % number * 1000 for number in range(50))
            async with session.post(f"{url}/echo", data=body) as response:
                assert await response.read() == body
            form = aiohttp.FormData()
            form.add_field("field", body, filename="name")
            async with session.post(f"{url}/upload", data=form) as response:
                assert await response.json() == {"field": len(body)}
            async with session.get(f"{url}/files/aiohttp_app.py") as response:  # by sendfile if there is no TLS
                assert await response.read() == Path(aiohttp_app.__file__).read_bytes()
            async with session.get(f"{url}/fail") as response:
                assert response.status == 500
            async with session.ws_connect(f"{url}/ws", max_msg_size=0) as socket:
                for text in ("hello", "ä" * 40_000):
                    await socket.send_str(text)
                    assert await socket.receive_str() == text
                await socket.send_bytes(body)
                assert await socket.receive_bytes() == body
                await socket.send_str("close")
                message = await socket.receive()
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4001)

            # Many requests at once, over the session's connections.
            async def ask(number):
                async with session.post(f"{url}/echo", data=b"%d" % number) as response:
                    return await response.read()

            assert await asyncio.gather(*map(ask, range(200))) == [b"%d" % number for number in range(200)]
        await runner.cleanup()

    run(main())


def test_errors_of_the_client(run, port):
    async def main():
        async def closes(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.close()

        async def is_silent(reader, writer):
            await reader.read()
            writer.close()

        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://127.0.0.1:{port}/")
            for handler, error in (closes, aiohttp.ServerDisconnectedError), (is_silent, TimeoutError):
                async with await asyncio.start_server(handler, "127.0.0.1") as server:
                    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
                    with pytest.raises(error):
                        await session.get(
                            url, timeout=aiohttp.ClientTimeout(total=0.2 if error is TimeoutError else 20)
                        )

    run(main())


def test_run_app(programs, port):
    """`web.run_app(app, loop=rondel.new_event_loop())`."""
    server = programs.serve(port, *PYTHON, "aiohttp_app.py", port)
    assert httpx.get(f"http://127.0.0.1:{port}/where").json()["loop"] == RONDELS
    assert server.stop() == 0


def test_by_the_command(programs, port):
    server = programs.serve(port, *RONDEL, "-m", "aiohttp.web", "-H", "127.0.0.1", "-P", port, "aiohttp_app:make")
    assert httpx.get(f"http://127.0.0.1:{port}/where").json()["loop"] == RONDELS
    assert server.stop() == 0
