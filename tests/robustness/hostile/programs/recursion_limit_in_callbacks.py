"""Runs into the recursion limit in callbacks and in deep awaits."""

import asyncio
import sys


def rec(n=0):
    try:
        return rec(n + 1)
    finally:
        pass


async def main():
    loop = asyncio.get_running_loop()
    errs = []
    loop.set_exception_handler(lambda l, c: errs.append(type(c["exception"]).__name__))
    loop.call_soon(rec)

    async def deep(n):
        if n == 0:
            f = loop.create_future()
            loop.call_soon(f.set_result, 1)
            return await f
        return await deep(n - 1)

    for n in (100, 500, 800, 960):
        try:
            print(n, await deep(n))
        except RecursionError:
            print(n, "RE")

    async def eager(n):
        if n:
            return await asyncio.gather(eager(n - 1))
        return 0

    try:
        r = await eager(200)
        print("gathered")
    except RecursionError:
        print("RE")
    f = loop.create_future()

    def atlimit(n):
        try:
            atlimit(n + 1)
        except RecursionError:
            pass
        try:
            f.cancel() if n > 900 else None
            loop.call_soon(int)
            asyncio.current_task()
            loop.create_future().add_done_callback(int)
        except RecursionError:
            pass

    loop.call_soon(atlimit, 0)
    await asyncio.sleep(0.01)
    print(errs)


asyncio.run(main())
