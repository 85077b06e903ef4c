"""Leaves asynchronous generators to the loop in the middle of their work."""

import asyncio
import gc


async def ag():
    try:
        while True:
            yield 1
    finally:
        await asyncio.sleep(0)
        print("fin")


async def main():
    async for _x in ag():
        break
    gc.collect()
    await asyncio.sleep(0.01)
    a = ag()
    await a.__anext__()
    b = ag()
    await b.__anext__()
    del a
    gc.collect()


asyncio.run(main())
