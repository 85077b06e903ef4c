"""Hands out buffers that are empty, read-only, replaced or released while they are filled."""

import array
import asyncio
import mmap
import socket


async def one(getbuf, updated=lambda s, n: None):
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda l, c: print("handler", type(c.get("exception")).__name__, str(c.get("exception"))[:60])
    )
    a, b = socket.socketpair()
    a.setblocking(False)
    lost = loop.create_future()

    class P(asyncio.BufferedProtocol):
        def connection_made(s, t):
            s.t = t

        def get_buffer(s, h):
            return getbuf(s, h)

        def buffer_updated(s, n):
            return updated(s, n)

        def connection_lost(s, e):
            lost.set_result(type(e).__name__)

        def eof_received(s):
            pass

    t, p = await loop.create_connection(P, sock=a)
    b.send(b"hello" * 10)
    await asyncio.sleep(0.01)
    b.send(b"x" * 10)
    await asyncio.sleep(0.01)
    b.close()
    try:
        print(await asyncio.wait_for(lost, 1))
    except BaseException as e:
        print(type(e).__name__)
        t.abort()


class Bad:
    pass


def chg(s, h):
    s.ba = bytearray(10)
    return s.ba


def upd(s, n):
    s.ba.clear()
    s.ba.extend(b"z" * 100000)


def closer(s, h):
    s.t.close()
    return bytearray(10)


def aborter(s, h):
    s.t.abort()
    return bytearray(10)


def prot(s, h):
    s.t.set_protocol(asyncio.Protocol())
    return bytearray(10)


def mm(s, h):
    s.m = mmap.mmap(-1, 4096)
    return s.m


def upd2(s, n):
    s.m.close()


async def main():
    for g, u in (
        (lambda s, h: bytearray(0), upd),
        (lambda s, h: b"ro", upd),
        (lambda s, h: Bad(), upd),
        (chg, upd),
        (closer, lambda s, n: None),
        (aborter, lambda s, n: None),
        (prot, lambda s, n: None),
        (mm, upd2),
        (lambda s, h: memoryview(bytearray(20))[::2], upd),
        (lambda s, h: array.array("I", [0] * 10), lambda s, n: None),
        (lambda s, h: 1 / 0, upd),
        (chg, lambda s, n: 1 / 0),
    ):
        await one(g, u)


asyncio.run(main())
