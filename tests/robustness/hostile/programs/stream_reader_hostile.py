"""Feeds, ends and reads a StreamReader in no sensible order."""

import asyncio


async def main():
    loop = asyncio.get_running_loop()
    r = asyncio.StreamReader()
    for x in (b"a", bytearray(b"bc"), memoryview(b"d"), "str", 5, None):
        try:
            r.feed_data(x)
        except BaseException as e:
            print(type(e).__name__)
    print(await r.read(10))

    class L(int):
        def __index__(s):
            raise ValueError

    for f, a in (
        (r.readexactly, -1),
        (r.readexactly, 10**30),
        (r.read, "x"),
        (r.readuntil, b""),
        (r.readuntil, "x"),
        (r.read, L(3)),
        (r.readexactly, None),
    ):
        try:
            print(await asyncio.wait_for(f(a), 0.01))
        except BaseException as e:
            print(type(e).__name__, str(e)[:60])
    b = bytearray(b"line\nrest")
    r.feed_data(b)
    b.clear()
    print(await r.readline())
    try:
        r.set_exception(5)
        print(await r.read(1))
    except BaseException as e:
        print(type(e).__name__, str(e)[:60])
    r = asyncio.StreamReader(limit=10)
    t = asyncio.create_task(r.readline())
    await asyncio.sleep(0)
    try:
        await r.read(1)
    except BaseException as e:
        print(type(e).__name__, str(e)[:60])
    r.feed_data(b"x" * 30)
    try:
        print(await t)
    except BaseException as e:
        print(type(e).__name__, str(e)[:60])
    r.feed_eof()
    r.feed_eof()
    try:
        r.feed_data(b"z")
    except BaseException as e:
        print(type(e).__name__)
    print(await r.read())


asyncio.run(main())
