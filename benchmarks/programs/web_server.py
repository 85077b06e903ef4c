"""Whole programs under load: `python web_server.py --loop NAME --form loop --server KIND --size BYTES [--tls]`.

Prints `{"port": N}` and serves 127.0.0.1 until it is killed. What it answers is what the load generator expects
(`rust/src/requests.rs`): a short text, or JSON of `--size` bytes, with the path of the request in it.
"""

import argparse
import json
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from binding import bind

Body = Callable[[str], bytes]


def body_of(size: int) -> Body:
    """Makes the body for a path."""
    if size == 0:
        return lambda path: b"Hello from " + path.encode()
    filler = b"x" * (size - len(b'{"path": "", "data": ""}') - len("/00000-0000000000"))
    return lambda path: b'{"path": "' + path.encode() + b'", "data": "' + filler + b'"}'


def certified(folder: str) -> dict[str, str]:
    """uvicorn's options for TLS, with a certificate that is made for it in `folder`."""
    import trustme

    made = trustme.CA().issue_cert("localhost")
    options = {"ssl_certfile": f"{folder}/certificate.pem", "ssl_keyfile": f"{folder}/key.pem"}
    made.cert_chain_pems[0].write_to_path(options["ssl_certfile"])
    made.private_key_pem.write_to_path(options["ssl_keyfile"])
    return options


def uvicorn(parser: str) -> Any:
    async def serve(listener: socket.socket, size: int, tls: bool = False) -> None:
        import uvicorn

        body = body_of(size)
        kind = b"application/json" if size else b"text/plain"

        async def app(scope: Any, receive: Any, send: Any) -> None:
            content = body(scope["path"])
            headers = [(b"content-type", kind), (b"content-length", b"%d" % len(content))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": content})

        # `--loop rondel:new_event_loop` does no more than what has been done already: the loop
        # runs.
        options: dict[str, Any] = {"loop": "none", "lifespan": "off", "access_log": False, "log_level": "warning"}
        with tempfile.TemporaryDirectory() as folder:
            config = uvicorn.Config(app, http=parser, **options, **(certified(folder) if tls else {}))
            # Reads the files: nobody would remove them later, as the harness kills this program.
            config.load()
        await uvicorn.Server(config).serve(sockets=[listener])

    return serve


async def aiohttp(listener: socket.socket, size: int) -> None:
    import asyncio

    from aiohttp import web

    body = body_of(size)
    kind = "application/json" if size else "text/plain"

    async def answer(request: Any) -> Any:
        return web.Response(body=body(request.path), content_type=kind)

    application = web.Application()
    application.router.add_get("/{path}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await asyncio.get_running_loop().create_future()


async def websockets(listener: socket.socket, size: int) -> None:
    from websockets.asyncio.server import serve

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, sock=listener, compression=None) as server:
        await server.serve_forever()


SERVERS = {
    "uvicorn-h11": uvicorn("h11"),
    "uvicorn-httptools": uvicorn("httptools"),
    "aiohttp": aiohttp,
    "websockets": websockets,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--form", choices=["loop", "module"], required=True)
    parser.add_argument("--server", choices=SERVERS, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--tls", action="store_true", help="for uvicorn")
    options = parser.parse_args()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    listener.setblocking(False)
    # The load generator waits in the backlog until the program accepts.
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    tls = {"tls": True} if options.tls else {}
    bind(options.loop, options.form).run(SERVERS[options.server](listener, options.size, **tls))


if __name__ == "__main__":
    main()
