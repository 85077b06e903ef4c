"""aiofastnet: on a Rondel loop its functions create Rondel's transports, also for aiohttp."""

import asyncio

import pytest
import rondel

aiofastnet = pytest.importorskip("aiofastnet", exc_type=ImportError)
import aiohttp  # noqa: E402
from aiohttp import web  # noqa: E402


class Answering(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Asking(asyncio.Protocol):
    def __init__(self):
        self.answer = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.answer.set_result(data)


class Buffered(aiofastnet.Protocol):
    """A protocol that derives from aiofastnet's class alone.

    Asyncio's transports do not support it.
    """

    def __init__(self):
        self.buffer = bytearray(100)
        self.answer = asyncio.get_running_loop().create_future()

    def is_buffered_protocol(self):
        return True

    def connection_made(self, transport):
        pass

    def connection_lost(self, error):
        pass

    def eof_received(self):
        pass

    def get_buffer(self, hint):
        return self.buffer

    def buffer_updated(self, count):
        self.answer.set_result(bytes(self.buffer[:count]))


def is_rondels(transport):
    return type(transport).__module__.partition(".")[0] == "rondel"


@pytest.mark.parametrize("is_tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("protocol", [Asking, Buffered])
def test_connections_and_servers(run, way, certificate, is_tls, protocol):
    async def main():
        loop = asyncio.get_running_loop()
        server_tls = {"ssl": certificate.server, "ssl_incoming_bio_size": 65536} if is_tls else {}
        client_tls = {"ssl": certificate.client, "server_hostname": "localhost"} if is_tls else {}
        server = await aiofastnet.create_server(loop, Answering, "127.0.0.1", 0, **server_tls)
        address = server.sockets[0].getsockname()
        transport, made = await aiofastnet.create_connection(loop, protocol, *address, **client_tls)
        assert isinstance(made, protocol)
        assert protocol is Buffered or is_rondels(transport) == (way != "asyncio")
        transport.write(b"question")
        assert await asyncio.wait_for(made.answer, 5) == b"question"
        transport.close()
        if not is_tls:
            reader, writer = await aiofastnet.open_connection(loop, *address)
            writer.write(b"streams")
            assert await reader.readexactly(7) == b"streams"
            assert is_rondels(writer.transport) == (way != "asyncio")
            writer.close()
        server.close()
        await asyncio.sleep(0.1)  # until the connections are closed, over TLS too

    run(main())


def test_a_loop_that_it_is_to_patch_gets_its_own_transports(run):
    async def main():
        loop = aiofastnet.patch_loop()
        server = await loop.create_server(Answering, "127.0.0.1", 0)
        transport, made = await loop.create_connection(Asking, *server.sockets[0].getsockname())
        assert isinstance(transport, aiofastnet.Transport)
        transport.write(b"question")
        assert await asyncio.wait_for(made.answer, 5) == b"question"
        transport.close()
        server.close()

    run(main())


def test_aiohttp_by_way_of_it(run, way, certificate, tmp_path, monkeypatch):
    """From 3.15 on aiohttp calls aiofastnet's functions; here the loop's methods do."""
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        create_server, create_connection = type(loop).create_server, type(loop).create_connection
        inside = []

        def by_way_of(name, method):
            async def call(self, *args, **kwargs):
                if inside:
                    return await method(self, *args, **kwargs)
                inside.append(1)
                try:
                    made = await getattr(aiofastnet, name)(self, *args, **kwargs)
                finally:
                    inside.pop()
                seen.append(made)
                return made

            return call

        monkeypatch.setattr(type(loop), "create_server", by_way_of("create_server", create_server))
        monkeypatch.setattr(type(loop), "create_connection", by_way_of("create_connection", create_connection))
        file = tmp_path / "file"
        file.write_bytes(bytes(100_000))

        async def echo(request):
            return web.Response(body=await request.read())

        async def send(request):
            return web.FileResponse(file)

        app = web.Application()
        app.add_routes([web.post("/echo", echo), web.get("/file", send)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificate.server)
        await site.start()
        url = f"https://localhost:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=certificate.client)) as session:
            async with session.post(f"{url}/echo", data=b"body" * 10_000) as response:
                assert await response.read() == b"body" * 10_000
            if way != "asyncio":  # here aiohttp itself would have to call aiofastnet's sendfile()
                async with session.get(f"{url}/file") as response:
                    assert await response.read() == bytes(100_000)
        await runner.cleanup()
        await asyncio.sleep(0.1)  # aiohttp does not wait for the TLS shutdown; its documentation says to do so

    run(main())
    connections = [made[0] for made in seen if isinstance(made, tuple)]
    assert connections and all(is_rondels(transport) == (way != "asyncio") for transport in connections)


def test_it_may_have_been_imported_first(programs, tmp_path):
    from processes import PYTHON

    file = tmp_path / "program.py"
    file.write_text(
        "import aiofastnet, asyncio, rondel\n"
        "async def main():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    server = await aiofastnet.create_server(loop, asyncio.Protocol, '127.0.0.1', 0)\n"
        "    transport, _ = await aiofastnet.create_connection(loop, asyncio.Protocol, *server.sockets[0].getsockname())\n"
        "    print(type(transport).__module__)\n"
        "    transport.close(); server.close()\n"
        "rondel.run(main())\n"
    )
    program = programs.start(*PYTHON, file)
    assert program.wait() == 0, program.output
    assert program.output.split() == ["rondel"]
    assert rondel.__version__
