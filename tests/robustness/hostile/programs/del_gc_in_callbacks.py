"""Collects garbage and calls the loop in destructors of objects that callbacks reference."""

import asyncio
import gc


class D:
    def __init__(s, l):
        s.l = l

    def __del__(s):
        gc.collect()
        try:
            s.l.call_soon(lambda: None)
            s.l.call_later(0.001, lambda: None)
        except RuntimeError:
            pass


async def main():
    loop = asyncio.get_running_loop()
    for i in range(300):
        h = loop.call_soon(lambda d: None, D(loop))
        t = loop.call_later(1000, lambda d: None, D(loop))
        t.cancel()
        f = loop.create_future()
        f.set_result(D(loop))
        f.x = f
        del f

        async def c(d):
            await asyncio.sleep(0)

        asyncio.create_task(c(D(loop)))
        f = loop.create_future()
        f.add_done_callback(lambda f, d=D(loop): None)
        f.cancel()
        if i % 50 == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    print("ok")


asyncio.run(main())
