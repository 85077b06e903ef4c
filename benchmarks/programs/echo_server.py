"""Echo servers under load: `python echo_server.py --loop NAME --form FORM --server KIND` prints `{"port": N}` and serves
127.0.0.1 until it is killed.

Nothing here measures anything: the load generator reads this process's CPU clock from outside.
"""

import argparse
import json
from typing import Any

from binding import bind

#: Bytes a stream reads at once, as much as the floor receives at once.
READ = 64 * 1024
#: Connections that may wait to be accepted.
BACKLOG = 4096


async def streams(asyncio: Any) -> Any:
    """A task for each connection: read, write, drain."""

    async def echo(reader: Any, writer: Any) -> None:
        while data := await reader.read(READ):
            writer.write(data)
            await writer.drain()
        writer.close()

    return await asyncio.start_server(echo, "127.0.0.1", 0, backlog=BACKLOG)


async def protocol(asyncio: Any) -> Any:
    """One `write` in each `data_received`."""

    class Echo(asyncio.Protocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    loop = asyncio.get_running_loop()
    return await loop.create_server(Echo, "127.0.0.1", 0, backlog=BACKLOG)


async def two_writes(asyncio: Any) -> Any:
    """Two `write`s in each `data_received`, as a head and a body are written: the reply is the message twice."""

    class EchoTwice(asyncio.Protocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)
            self.transport.write(data)

    loop = asyncio.get_running_loop()
    return await loop.create_server(EchoTwice, "127.0.0.1", 0, backlog=BACKLOG)


SERVERS = {"streams": streams, "protocol": protocol, "two-writes": two_writes}


async def serve(asyncio: Any, start: Any) -> None:
    server = await start(asyncio)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--form", choices=["loop", "module"], required=True)
    parser.add_argument("--server", choices=SERVERS, required=True)
    options = parser.parse_args()
    binding = bind(options.loop, options.form)
    binding.run(serve(binding.asyncio, SERVERS[options.server]))


if __name__ == "__main__":
    main()
