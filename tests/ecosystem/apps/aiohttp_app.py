"""An aiohttp application; `aiohttp_app.py PORT` serves it by `web.run_app` on Rondel."""

import asyncio
import os
import sys

from aiohttp import WSMsgType, web


async def where(request):
    loop = type(asyncio.get_running_loop())
    return web.json_response({"loop": f"{loop.__module__}.{loop.__qualname__}", "pid": os.getpid()})


async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(50):
        await response.write(b"%d," % number * 1000)
    await response.write_eof()
    return response


async def echo(request):
    return web.Response(body=await request.read())


async def upload(request):
    form = await request.post()
    return web.json_response({name: len(field.file.read()) for name, field in form.items()})


async def fail(request):
    raise RuntimeError("the application failed")


async def websocket(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            if message.data == "close":
                await socket.close(code=4001)
            else:
                await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


def make(_arguments=None):
    application = web.Application(client_max_size=1 << 24)
    application.add_routes(
        [
            web.get("/where", where),
            web.get("/stream", stream),
            web.post("/echo", echo),
            web.post("/upload", upload),
            web.get("/fail", fail),
            web.get("/ws", websocket),
            web.static("/files", os.path.dirname(__file__)),
        ]
    )
    return application


app = make()

if __name__ == "__main__":
    import rondel

    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), loop=rondel.new_event_loop())
