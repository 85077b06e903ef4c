"""Echo servers under load: `python echo_server.py --loop NAME --form FORM --server KIND`.

Prints `{"port": N}` and serves 127.0.0.1 until it is killed.

Nothing here measures anything: the load generator reads this process's CPU clock from outside.
"""

import argparse
import json
import socket
from typing import Any

from binding import bind

#: Bytes a stream reads at once, as much as the floor receives at once.
READ = 64 * 1024
#: Connections that may wait to be accepted.
BACKLOG = 4096


async def streams(asyncio: Any, listener: socket.socket, **tls: Any) -> Any:
    """A task for each connection: read, write, drain."""

    async def echo(reader: Any, writer: Any) -> None:
        while data := await reader.read(READ):
            writer.write(data)
            await writer.drain()
        writer.close()

    return await asyncio.start_server(echo, sock=listener, backlog=BACKLOG, **tls)


def of_the_loop(loop: Any, *args: Any, **kwargs: Any) -> Any:
    """Has the loop itself make a server."""
    return loop.create_server(*args, **kwargs)


async def protocol(asyncio: Any, listener: socket.socket, make_server: Any = of_the_loop, **tls: Any) -> Any:
    """One `write` in each `data_received`."""

    class Echo(asyncio.Protocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    return await make_server(asyncio.get_running_loop(), Echo, sock=listener, backlog=BACKLOG, **tls)


async def aiofastnet(asyncio: Any, listener: socket.socket, **tls: Any) -> Any:
    """The same, with the server made by aiofastnet's function on the loop, as aiohttp does where it is installed."""
    import aiofastnet

    return await protocol(asyncio, listener, aiofastnet.create_server, **tls)


async def two_writes(asyncio: Any, listener: socket.socket, **tls: Any) -> Any:
    """Two `write`s in each `data_received`, as a head and a body are written: the reply is the message twice."""

    class EchoTwice(asyncio.Protocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)
            self.transport.write(data)

    loop = asyncio.get_running_loop()
    return await loop.create_server(EchoTwice, sock=listener, backlog=BACKLOG, **tls)


async def one_shot(asyncio: Any, listener: socket.socket, **tls: Any) -> Any:
    """The tutorial's echo server: one message for each connection."""

    async def echo(reader: Any, writer: Any) -> None:
        data = await reader.read(100)
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return await asyncio.start_server(echo, sock=listener, backlog=BACKLOG, **tls)


SERVERS = {
    "streams": streams,
    "protocol": protocol,
    "aiofastnet": aiofastnet,
    "two-writes": two_writes,
    "one-shot": one_shot,
}


async def serve_datagrams(asyncio: Any) -> None:
    """One UDP socket, one `sendto` in each `datagram_received`."""

    class Echo(asyncio.DatagramProtocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # Room for what all peers of the load generator have in flight, so that none of it is lost.
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    receiver.setblocking(False)
    receiver.bind(("127.0.0.1", 0))
    port = receiver.getsockname()[1]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, sock=receiver)
    print(json.dumps({"port": port}), flush=True)
    await loop.create_future()
    transport.close()


async def serve(asyncio: Any, start: Any, tls: dict[str, Any]) -> None:
    # rloop closes its listener when somebody looks at `server.sockets` or starts a server that is
    # started, as `serve_forever` does: so the socket is ours and the wait is a future's. The
    # protocol number must be there: asyncio turns Nagle's algorithm off only where it reads
    # IPPROTO_TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = await start(asyncio, listener, **tls)
    print(json.dumps({"port": port}), flush=True)
    await asyncio.get_running_loop().create_future()
    server.close()


def certified() -> Any:
    """A context for a server, with a certificate made for it."""
    import ssl

    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--form", choices=["loop", "module"], required=True)
    parser.add_argument("--server", choices=[*SERVERS, "datagrams"], required=True)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    binding = bind(options.loop, options.form)
    if options.server == "datagrams":
        binding.run(serve_datagrams(binding.asyncio))
    else:
        binding.run(serve(binding.asyncio, SERVERS[options.server], {"ssl": certified()} if options.tls else {}))


if __name__ == "__main__":
    main()
