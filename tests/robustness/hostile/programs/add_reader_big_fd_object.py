"""Watches objects whose `fileno()` is invalid."""

import asyncio


async def main():
    loop = asyncio.get_running_loop()
    for f in (-1, 10**5, 2**31, 2**63, "x", None, 1.5, True):
        for m in (loop.add_reader, loop.add_writer):
            try:
                m(f, int)
                print("ok")
            except BaseException as e:
                print(type(e).__name__)
        for m in (loop.remove_reader, loop.remove_writer):
            try:
                print(m(f))
            except BaseException as e:
                print(type(e).__name__)


asyncio.run(main())
