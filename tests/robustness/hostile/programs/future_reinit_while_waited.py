"""Initialises a future again while a task waits for it."""

import asyncio
import sys


async def main():
    loop = asyncio.get_running_loop()

    async def w(f):
        await f

    for _i in range(100):
        f = loop.create_future()
        t = asyncio.create_task(w(f))
        await asyncio.sleep(0)
        try:
            f.__init__(loop=loop)
        except RuntimeError:
            print("refused")
            f.cancel()
            break
        t.cancel()
        await asyncio.sleep(0)
        t._log_destroy_pending = False
    print("ok")


asyncio.run(main())
