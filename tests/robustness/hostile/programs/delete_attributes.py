"""Deletes and overwrites every attribute that can be named."""

import asyncio


async def main():
    loop = asyncio.get_running_loop()

    async def c():
        await asyncio.sleep(0)

    objs = [
        loop.create_future(),
        asyncio.create_task(c()),
        loop.call_soon(int),
        loop.call_later(1, int),
        asyncio.Lock(),
        asyncio.Event(),
        asyncio.Condition(),
        asyncio.Semaphore(),
        asyncio.Queue(),
        asyncio.Barrier(2),
        asyncio.TaskGroup(),
        asyncio.Timeout(None),
        loop,
    ]
    import gc

    n = 0
    for o in objs:
        for name in dir(o):
            if name.startswith("__") and name != "__dict__":
                continue
            try:
                delattr(o, name)
                n += 1
            except (AttributeError, TypeError, NotImplementedError):
                pass
            except BaseException as e:
                print(type(o).__name__, name, type(e).__name__)
            try:
                repr(o)
            except (AttributeError, TypeError, RuntimeError):
                pass
    for o in objs[:-1]:
        for name in dir(o):
            if name.startswith("__"):
                continue
            try:
                setattr(o, name, None)
                n += 1
            except (AttributeError, TypeError, NotImplementedError, ValueError):
                pass
            except BaseException as e:
                print(type(o).__name__, name, type(e).__name__, e)
    gc.collect()
    print("alive")


import warnings

warnings.simplefilter("ignore")
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
