"""Cancels one of two tasks that wait for each other."""

import asyncio


async def main():
    async def a():
        await tb

    async def b():
        await ta

    ta = asyncio.create_task(a())
    tb = asyncio.create_task(b())
    await asyncio.sleep(0.01)
    try:
        ta.cancel()
        print("no error")
    except RecursionError:
        print("RecursionError")
    import os
    import sys

    sys.stdout.flush()
    os._exit(0)


asyncio.run(main())
