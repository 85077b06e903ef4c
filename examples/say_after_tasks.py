"""Two tasks that wait at the same time: 2 seconds in all, not 3."""

import asyncio


async def say_after(delay, what):
    await asyncio.sleep(delay)
    print(what)


async def main():
    loop = asyncio.get_running_loop()
    start = loop.time()

    task1 = asyncio.create_task(say_after(1, "hello"))
    task2 = asyncio.create_task(say_after(2, "world"))
    await task1
    await task2

    print(f"took {loop.time() - start:.0f} seconds")


asyncio.run(main())
