"""Shuts executors down, replaces them, and submits what cannot be called."""

import asyncio
import concurrent.futures as cf
import threading
import time


async def main():
    loop = asyncio.get_running_loop()
    for _i in range(20):
        fs = [loop.run_in_executor(None, time.sleep, 0.001) for _ in range(50)]
        for f in fs[::2]:
            f.cancel()
        r = await asyncio.gather(*fs, return_exceptions=True)
    print(len(r))
    ex = loop._default_executor
    fs = [loop.run_in_executor(None, time.sleep, 0.01) for _ in range(50)]
    ex.shutdown(wait=False, cancel_futures=True)
    r = await asyncio.gather(*fs, return_exceptions=True)
    print(sorted({type(x).__name__ for x in r}))
    try:
        await loop.run_in_executor(None, int)
    except RuntimeError as e:
        print(e)


asyncio.run(main())


async def storm():
    async def one(i):
        try:
            return await asyncio.wait_for(asyncio.to_thread(time.sleep, 0.002), 0.001 * (i % 4))
        except TimeoutError:
            return "to"

    r = await asyncio.gather(*[one(i) for i in range(300)])
    print(len(r))


asyncio.run(storm())
