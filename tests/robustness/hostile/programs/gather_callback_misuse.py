"""Calls the callback that gather() leaves in a future with other objects."""

import asyncio


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda l, c: None)
    fs = [loop.create_future() for _ in range(3)]
    g = asyncio.gather(*fs)
    s = asyncio.shield(fs[0])
    w = asyncio.create_task(asyncio.wait(fs))
    await asyncio.sleep(0)
    cbs = [c for f in fs for c, _ in f._callbacks]
    for c in cbs:
        for x in (1, object(), [], print, loop, "s" * 5):
            try:
                c(x)
            except BaseException:
                pass
    g.cancel()
    await asyncio.sleep(0.01)
    print("alive")


import logging
import os
import sys

logging.disable()
try:
    asyncio.run(main())
except BaseException as e:
    print(type(e).__name__)
sys.stdout.flush()
os._exit(0)
