"""websockets: its asyncio server and client, over TCP and TLS."""

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_server_and_client(run, certificate, tls):
    server_context, client_context = (certificate.server, certificate.client) if tls else (None, None)

    async def echo(socket):
        async for message in socket:
            if message == "end":
                await socket.close(4001, "as asked")
            await socket.send(message)

    async def refuse(_socket, request):
        return _socket.respond(403, "no") if request.path == "/refused" else None

    async def main():
        options = {"ssl": server_context, "process_request": refuse, "max_size": None}
        async with serve(echo, "127.0.0.1", 0, **options) as server:
            url = f"{'wss' if tls else 'ws'}://localhost:{server.sockets[0].getsockname()[1]}"

            async def talk(number):
                async with connect(url, ssl=client_context, max_size=None) as socket:
                    for message in (f"hello {number}", b"\x00" * number, "ä" * 100_000, bytes(1_000_000)):
                        await socket.send(message)
                        assert await socket.recv() == message
                    await (await socket.ping())
                    # In an unknown number of fragments, and compressed.
                    await socket.send(["a" * 1000] * 20)
                    assert await socket.recv() == "a" * 20_000
                    await socket.send("end")
                    with pytest.raises(ConnectionClosedError) as caught:
                        await socket.recv()
                    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "as asked")

            async with asyncio.timeout(50), asyncio.TaskGroup() as group:
                for number in range(5):
                    group.create_task(talk(number))
            with pytest.raises(InvalidStatus):
                await connect(f"{url}/refused", ssl=client_context)
            client = await connect(url, ssl=client_context)
        # When the server stops, it closes the remaining connections.
        with pytest.raises(ConnectionClosedOK):
            await client.recv()

    run(main())


def test_a_dead_peer_is_noticed(run):
    async def main():
        async def handshake_and_silence(reader, writer):
            from websockets.server import ServerProtocol

            protocol = ServerProtocol()
            protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
            protocol.send_response(protocol.accept(protocol.events_received()[0]))
            writer.writelines(protocol.data_to_send())
            await reader.read()
            writer.close()

        async with await asyncio.start_server(handshake_and_silence, "127.0.0.1") as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(
                f"ws://127.0.0.1:{port}", ping_interval=0.05, ping_timeout=0.05, close_timeout=0.1
            ) as client:
                with pytest.raises(ConnectionClosedError, match="keepalive ping timeout"):
                    await client.recv()

    run(main())
