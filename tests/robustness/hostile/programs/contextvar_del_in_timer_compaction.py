"""Calls the loop from destructors that run when cancelled timers are thrown away."""

import asyncio
import contextvars
import gc

v = contextvars.ContextVar("v")
n = 0


class D:
    def __init__(s, l):
        s.l = l

    def __del__(s):
        global n
        n += 1
        try:
            s.l.call_later(50, print)
            s.l.call_soon(int)
        except RuntimeError:
            pass


async def main():
    loop = asyncio.get_running_loop()
    hs = []
    for i in range(1000):
        ctx = contextvars.Context()
        ctx.run(v.set, D(loop))
        hs.append(loop.call_later(100 + i, int, context=ctx))
        del ctx
    for h in hs:
        h.cancel()
    hs.clear()
    del h
    gc.collect()
    await asyncio.sleep(0.01)
    print(n > 0)


asyncio.run(main())
print(n)
