"""An ASGI application without a framework: tests what servers do, and reports their loop."""

import asyncio
import json
import os

started = []


async def app(scope, receive, send):
    await {"lifespan": lifespan, "http": http, "websocket": websocket}[scope["type"]](scope, receive, send)


async def lifespan(scope, receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            started.append(asyncio.get_running_loop())
            await send({"type": "lifespan.startup.complete"})
        else:
            assert started == [asyncio.get_running_loop()]
            print("shut down in good order", flush=True)
            await send({"type": "lifespan.shutdown.complete"})
            return


async def http(scope, receive, send):
    path = scope["path"]
    if path == "/fail":
        raise RuntimeError("the application failed")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if path == "/where":
        loop = type(asyncio.get_running_loop())
        where = {"loop": f"{loop.__module__}.{loop.__qualname__}", "pid": os.getpid(), "http": scope["http_version"]}
        await send({"type": "http.response.body", "body": json.dumps(where).encode()})
    elif path == "/stream":
        for number in range(50):
            await send({"type": "http.response.body", "body": b"%d," % number * 1000, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})
    elif path == "/echo":
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "http.response.body", "body": b"Hello"})


async def websocket(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001})
            return
        reply = {"type": "websocket.send"}
        for kind in ("text", "bytes"):
            if message.get(kind) is not None:
                reply[kind] = message[kind]
        await send(reply)
