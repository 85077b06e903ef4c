"""A tornado application; `tornado_app.py PORT` serves it on Rondel."""

import asyncio
import os
import sys

import rondel
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler


class Where(RequestHandler):
    async def get(self):
        await asyncio.sleep(0)
        loop = type(asyncio.get_running_loop())
        self.write({"loop": f"{loop.__module__}.{loop.__qualname__}", "pid": os.getpid()})


class Echo(RequestHandler):
    async def post(self):
        self.write(self.request.body)


class Stream(RequestHandler):
    async def get(self):
        for number in range(50):
            self.write(b"%d," % number * 1000)
            await self.flush()


class Talk(WebSocketHandler):
    async def on_message(self, message):
        await self.write_message(message, binary=isinstance(message, bytes))


def make():
    return Application([("/where", Where), ("/echo", Echo), ("/stream", Stream), ("/ws", Talk)])


async def main(port):
    make().listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    rondel.run(main(int(sys.argv[1])))
