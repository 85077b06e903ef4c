"""A server that sends back what it receives.

Try it with: nc 127.0.0.1 8888, or echo_client.py; stop it with Ctrl-C.
"""

import asyncio


async def handle_echo(reader, writer):
    address = writer.get_extra_info("peername")
    while data := await reader.read(100):
        print(f"received {data!r} from {address}", flush=True)
        writer.write(data)
        await writer.drain()
    print(f"{address} is done", flush=True)
    writer.close()
    await writer.wait_closed()


async def main():
    server = await asyncio.start_server(handle_echo, "127.0.0.1", 8888)
    print(f"serving on {server.sockets[0].getsockname()}", flush=True)

    async with server:
        await server.serve_forever()


asyncio.run(main())
