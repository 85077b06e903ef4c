"""Calls a task's __init__ in one of its own steps, with contexts that have no other references."""

import asyncio
import contextvars
import gc

variable = contextvars.ContextVar("variable", default=0)


async def main():
    loop = asyncio.get_running_loop()
    kept = []

    async def second():
        variable.set(variable.get() + 1)
        kept.append(variable.get())

    async def first(n):
        variable.set(n)
        for m in range(3):
            task.__init__(second(), loop=loop, context=contextvars.copy_context())
            gc.collect()
            variable.set(10 * m)
        print(variable.get())
        await asyncio.sleep(0)

    for n in range(5):
        task = asyncio.create_task(first(n), context=contextvars.Context())
        for _ in range(5):
            await asyncio.sleep(0)
        task = None
        gc.collect()
    print(len(kept))


import logging

logging.disable()
asyncio.run(main())
