"""Passes objects that fail when they are compared, hashed, shown or called."""

import asyncio


class E:
    def __call__(self, *a):
        raise ValueError("call")

    def __eq__(self, o):
        raise KeyError("eq")

    def __hash__(self):
        raise TypeError("hash")

    def __repr__(self):
        raise RuntimeError("repr")


async def main():
    loop = asyncio.get_running_loop()
    errs = []
    loop.set_exception_handler(lambda l, c: errs.append(type(c.get("exception")).__name__))
    f = loop.create_future()
    f.add_done_callback(E())
    f.add_done_callback(print)
    try:
        f.remove_done_callback(E())
    except BaseException as e:
        print(type(e).__name__, e)
    try:
        f.remove_done_callback(int)
    except BaseException as e:
        print(type(e).__name__, e)
    loop.call_soon(E())
    h = loop.call_soon(E())
    try:
        repr(h)
    except BaseException as e:
        print(type(e).__name__, e)
    f.set_result(E())
    try:
        repr(f)
    except BaseException as e:
        print(type(e).__name__, e)
    await asyncio.sleep(0.01)

    async def bad():
        yield E()

    class Y:
        def __await__(self):
            yield E()

    async def t():
        await Y()

    task = asyncio.create_task(t())
    try:
        await task
    except BaseException as e:
        print(type(e).__name__, str(e)[:50])
    try:
        asyncio.create_task(E())
    except BaseException as e:
        print(type(e).__name__, str(e)[:50])
    try:
        await asyncio.wait([E()])
    except BaseException as e:
        print(type(e).__name__, str(e)[:60])
    try:
        await asyncio.gather(E())
    except BaseException as e:
        print(type(e).__name__, str(e)[:60])
    try:
        await asyncio.wait({1: 2}, return_when=E())
    except BaseException as e:
        print(type(e).__name__, str(e)[:60])
    try:
        loop.call_later(E(), print)
    except BaseException as e:
        print(type(e).__name__, str(e)[:60])
    print(errs)


asyncio.run(main())
