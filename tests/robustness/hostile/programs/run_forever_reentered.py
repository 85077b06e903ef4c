"""Runs a loop, or another one, from a callback."""

import asyncio

loop = asyncio.new_event_loop()


def cb():
    for f in (
        loop.run_forever,
        lambda: loop.run_until_complete(loop.create_future()),
        lambda: loop.run_until_complete(co()),
    ):
        try:
            f()
        except BaseException as e:
            print(type(e).__name__, e)
    l2 = asyncio.new_event_loop()
    try:
        l2.run_forever()
    except BaseException as e:
        print(type(e).__name__, e)
    l2.close()
    loop.stop()


async def co():
    pass


import warnings

warnings.simplefilter("ignore")
loop.call_soon(cb)
loop.run_forever()
loop.close()
