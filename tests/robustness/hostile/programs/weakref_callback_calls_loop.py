"""Calls the loop from the callbacks of weak references."""

import asyncio
import gc
import weakref


async def main():
    loop = asyncio.get_running_loop()
    out = []
    keep = []

    def cb(r):
        out.append(1)
        loop.call_soon(out.append, 2)
        loop.create_future()
        asyncio.all_tasks()
        gc.collect()
        h = loop.call_later(9, print)
        h.cancel()

    for mk in (
        lambda: loop.create_future(),
        lambda: asyncio.create_task(asyncio.sleep(0)),
        lambda: loop.call_soon(int),
        lambda: loop.call_later(0, int),
        lambda: asyncio.Lock(),
        lambda: asyncio.Queue(),
        lambda: asyncio.gather(loop.create_future()),
    ):
        for _ in range(20):
            try:
                x = mk()
                keep.append(weakref.ref(x, cb))
                del x
            except TypeError as e:
                print(e)
                break
    await asyncio.sleep(0.02)
    gc.collect()
    await asyncio.sleep(0.02)
    print(len(out) > 100)


asyncio.run(main())
