"""Traces and profiles what runs on the loop, and raises from the trace function."""

import asyncio
import sys

cnt = 0


def tr(f, e, a):
    global cnt
    cnt += 1
    return tr


async def main():
    sys.settrace(tr)

    async def h(r, w):
        w.write(await r.read(10))
        await w.drain()
        w.close()

    s = await asyncio.start_server(h, "127.0.0.1", 0)
    r, w = await asyncio.open_connection(*s.sockets[0].getsockname())
    w.write(b"hi")
    print(await r.read())
    print(
        await asyncio.gather(
            asyncio.sleep(0, 1), asyncio.wait_for(asyncio.sleep(0.001, 2), 1), asyncio.to_thread(int, 3)
        )
    )
    w.close()
    s.close()
    sys.settrace(None)


def tr2(f, e, a):
    if e == "line" and f.f_code.co_name == "x":
        raise ValueError("from trace")
    return tr2


asyncio.run(main())
print(cnt > 10)


async def m2():
    async def x():
        await asyncio.sleep(0)
        return 1

    sys.settrace(tr2)
    t = asyncio.create_task(x())
    try:
        print(await t)
    except ValueError as e:
        print("VE", e)
    sys.settrace(None)


asyncio.run(m2())
import cProfile

p = cProfile.Profile()
p.enable()
asyncio.run(main())
p.disable()
print("prof ok")
