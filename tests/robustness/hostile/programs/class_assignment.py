"""Gives objects another class."""

import asyncio


async def main():
    loop = asyncio.get_running_loop()
    f = loop.create_future()

    class F(asyncio.Future):
        def set_result(self, x):
            print("sub", x)

        def cancel(self, *a):
            print("cancel")
            return False

    class T(asyncio.Task):
        pass

    class P:
        pass

    for c in (F, T, P, int, asyncio.Task, dict):
        try:
            f.__class__ = c
            print("assigned", c.__name__)
        except TypeError as e:
            print("TE")
    for o in (loop, asyncio.Lock(), asyncio.Queue(), loop.call_soon(int), asyncio.Event(), asyncio.StreamReader()):
        own = type(o)

        class S(own):
            x = 5

        class L(own):
            __slots__ = ()

        for c in (S, own, L, own, F, dict):
            try:
                o.__class__ = c
                print("assigned", type(o) is c, getattr(o, "x", None))
            except TypeError:
                print("TE")

    async def c():
        await asyncio.sleep(0)

    t = asyncio.create_task(c())
    try:
        t.__class__ = T
        print("ok")
    except TypeError:
        print("TE")
    await t


asyncio.run(main())
