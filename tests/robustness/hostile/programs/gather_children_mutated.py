"""Changes the list of children of a gather() that is in progress."""

import asyncio


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda l, c: None)
    for x in (1, None, "s", object()):
        f = loop.create_future()
        h = loop.create_future()
        g = asyncio.gather(f, h)
        g._children[0] = x
        g._children.append(x)
        f.set_result(1)
        h.set_result(2)
        try:
            done, _ = await asyncio.wait([g], timeout=0.1)
            print(len(done), [each.result() for each in done])
        except BaseException as e:
            print(type(e).__name__)
        f = loop.create_future()
        g = asyncio.gather(f)
        g._children.clear()
        try:
            g.cancel()
            f.cancel()
            done, _ = await asyncio.wait([g], timeout=0.1)
            print(len(done), [each.result() for each in done])
        except BaseException as e:
            print(type(e).__name__)


import logging
import os
import sys

logging.disable()
asyncio.run(main())
sys.stdout.flush()
os._exit(0)
