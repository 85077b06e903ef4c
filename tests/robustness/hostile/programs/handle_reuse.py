"""Keeps handles after they ran, and runs and cancels them again."""

import asyncio
import gc


async def main():
    loop = asyncio.get_running_loop()
    n = [0]

    def cb():
        n[0] += 1
        h.cancel()
        h2.cancel()

    for _i in range(200):
        h = loop.call_soon(cb)
        h2 = loop.call_later(0, cb)
        h3 = loop.call_soon(int)
        h3.cancel()
        h3.cancel()
        h3._run()
        h._run()
        await asyncio.sleep(0.0001)
        h._run()
        h2._run()
        repr(h)
        repr(h2)
        try:
            h.__init__(int, (), loop)
            h._run()
        except BaseException as e:
            print(type(e).__name__)
    print(n[0] > 0)
    hs = [loop.call_at(0, int) for _ in range(1000)]
    for h in hs:
        h.__init__(int, (), loop) if False else h.cancel()

    class H(asyncio.Handle):
        def _run(self):
            print("sub run")

    x = H(int, (), loop, None)
    loop._add_callback(x) if hasattr(loop, "_add_callback") else None
    await asyncio.sleep(0.01)
    print("ok")


asyncio.run(main())
