"""Drops the last reference to a loop in another thread."""

import asyncio
import gc
import threading


def w():
    for _i in range(30):
        loop = asyncio.new_event_loop()

        async def m():
            f = loop.create_future()
            loop.call_later(100, int)
            asyncio.create_task(asyncio.sleep(100)) if False else None
            await asyncio.sleep(0)
            f.add_done_callback(int)

        loop.run_until_complete(m())
        loop.close()
        loop = None
    gc.collect()


ts = [threading.Thread(target=w) for _ in range(4)]
[t.start() for t in ts]
[t.join() for t in ts]
print("ok")
