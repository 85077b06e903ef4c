"""Raises SystemExit and KeyboardInterrupt from each place that a loop calls."""

import asyncio


class BE(BaseException):
    pass


import socket
import warnings

warnings.simplefilter("ignore")
for exc in (KeyboardInterrupt, SystemExit, BE, GeneratorExit, StopIteration, StopAsyncIteration, MemoryError):

    def boom(*a):
        raise exc

    async def viaproto():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        a.setblocking(False)

        class P(asyncio.Protocol):
            def data_received(s, d):
                boom()

        t, p = await loop.create_connection(P, sock=a)
        b.send(b"x")
        await asyncio.sleep(0.01)
        t.abort()
        b.close()
        await asyncio.sleep(0.01)

    async def viacb():
        asyncio.get_running_loop().call_soon(boom)
        await asyncio.sleep(0.01)

    async def viatimer():
        asyncio.get_running_loop().call_later(0, boom)
        await asyncio.sleep(0.01)

    async def viatask():
        async def t():
            boom()

        x = asyncio.create_task(t())
        await asyncio.sleep(0.01)
        try:
            x.exception()
        except BaseException as e:
            print(" task exc", type(e).__name__)

    async def viadone():
        f = asyncio.get_running_loop().create_future()
        f.add_done_callback(boom)
        f.set_result(1)
        await asyncio.sleep(0.01)

    async def viathread():
        try:
            await asyncio.to_thread(boom)
        except RuntimeError as e:
            print(" RE", str(e)[:60])

    async def viaset():
        f = asyncio.get_running_loop().create_future()
        try:
            f.set_exception(exc)
        except TypeError as e:
            print(" TE", str(e)[:80])
            return
        await f

    async def viahandler():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(boom)
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.01)

    import logging

    logging.disable()
    for f in (viaproto, viacb, viatimer, viatask, viadone, viathread, viaset, viahandler):
        try:
            asyncio.run(f())
            print(exc.__name__, f.__name__, "fine")
        except BaseException as e:
            print(exc.__name__, f.__name__, type(e).__name__)
