"""Awaits objects that follow the protocol of futures badly."""

import asyncio
import os


class Fut:
    _asyncio_future_blocking = True

    def __init__(s, l):
        s._loop = l
        s.cbs = []

    def get_loop(s):
        return s._loop

    def add_done_callback(s, cb, context=None):
        s.cbs.append(cb)

    def result(s):
        return 5

    def cancel(s, msg=None):
        return True

    def __await__(s):
        s._asyncio_future_blocking = True
        yield s
        return 5


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda l, c: print("h", type(c["exception"]).__name__) if "exception" in c else None)
    f = Fut(loop)

    async def t():
        return await f

    x = asyncio.create_task(t())
    await asyncio.sleep(0)
    cb = f.cbs[0]
    for a in ((), (1,), (f,), (f, f), (None,)):
        try:
            print(cb(*a))
        except BaseException as e:
            print(type(e).__name__, str(e)[:60])
    await asyncio.sleep(0.01)
    try:
        print(x.result())
    except BaseException as e:
        print(type(e).__name__)
    cb(f) if False else None

    class Bad(Fut):
        def add_done_callback(s, cb, context=None):
            raise ValueError("adc")

    class Bad2(Fut):
        @property
        def _asyncio_future_blocking(s):
            raise ValueError("blk")

        @_asyncio_future_blocking.setter
        def _asyncio_future_blocking(s, v):
            pass

    class Bad3(Fut):
        def get_loop(s):
            raise ValueError("gl")

    for B in (Bad, Bad2, Bad3):

        async def t2():
            return await B(loop)

        y = asyncio.create_task(t2())
        try:
            done, _ = await asyncio.wait([y], timeout=0.05)
            print(B.__name__, len(done), [each.result() for each in done])
        except BaseException as e:
            print(B.__name__, type(e).__name__, e)
    print("end", flush=True)
    os._exit(0)  # one of them never ends


asyncio.run(main())
