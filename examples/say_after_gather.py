"""The same as say_after_tasks.py, with gather: it creates the tasks and collects their results."""

import asyncio


async def say_after(delay, what):
    await asyncio.sleep(delay)
    print(what)
    return what.upper()


async def main():
    loop = asyncio.get_running_loop()
    start = loop.time()

    results = await asyncio.gather(say_after(1, "hello"), say_after(2, "world"))

    print(results)
    print(f"took {loop.time() - start:.0f} seconds")


asyncio.run(main())
