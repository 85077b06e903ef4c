"""Nests eager tasks deeper than the recursion limit, and deeper than the C stack."""

import asyncio
import sys

if sys.version_info >= (3, 12):

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)

        async def e(n):
            if n:
                await asyncio.create_task(e(n - 1))
            return n

        for lim, n in ((1000, 100), (1000, 5000), (50000, 20000)):
            sys.setrecursionlimit(lim)
            try:
                print(await e(n))
            except RecursionError:
                print("RE")

    asyncio.run(main())
