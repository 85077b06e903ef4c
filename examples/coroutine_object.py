"""Calling a coroutine function does not run it: it creates a coroutine object."""

import asyncio


async def my_coroutine():
    await asyncio.sleep(1)
    print("this line is never reached")


async def main():
    print(my_coroutine())


asyncio.run(main())
