"""Passes numbers that do not fit into a machine word."""

import asyncio


async def main():
    loop = asyncio.get_running_loop()
    import math

    for d in (
        float("inf"),
        float("-inf"),
        float("nan"),
        1e300,
        -1e300,
        10**30,
        -(10**30),
        2**63,
        2**64,
        1e-300,
        True,
        "x",
        None,
        1j,
    ):
        try:
            h = loop.call_later(d, int)
            h.cancel()
            h = loop.call_at(d, int)
            repr(h)
            h.when()
            h.cancel()
            print(repr(d)[:20], "ok")
        except BaseException as e:
            print(repr(d)[:20], type(e).__name__)
    for d in (float("inf"), 1e300, 10**30):
        try:
            await asyncio.wait_for(asyncio.sleep(0.001), d)
            print("ok")
        except BaseException as e:
            print(type(e).__name__)
        try:
            async with asyncio.timeout(d):
                await asyncio.sleep(0)
            print("ok")
        except BaseException as e:
            print(type(e).__name__)
    t = asyncio.create_task(asyncio.sleep(float("inf")))
    await asyncio.sleep(0.01)
    t.cancel()
    for f in (
        lambda: asyncio.Semaphore(2**70),
        lambda: asyncio.Queue(2**70),
        lambda: asyncio.Semaphore(-1),
        lambda: asyncio.Barrier(2**70),
        lambda: asyncio.Barrier(0),
        lambda: asyncio.Queue(-5),
        lambda: asyncio.StreamReader(limit=2**70),
        lambda: asyncio.StreamReader(limit=-1),
    ):
        try:
            f()
            print("made")
        except BaseException as e:
            print(type(e).__name__, str(e)[:50])


asyncio.run(main())
