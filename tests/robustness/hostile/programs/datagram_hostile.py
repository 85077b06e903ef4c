"""Sends to invalid addresses, and closes in between."""

import asyncio
import socket


async def main():
    loop = asyncio.get_running_loop()
    out = []
    loop.set_exception_handler(lambda l, c: out.append(type(c.get("exception")).__name__))

    class P(asyncio.DatagramProtocol):
        def datagram_received(s, d, a):
            out.append(len(d))
            if d == b"close":
                s.t.close()
            if d == b"raise":
                raise ValueError
            if d == b"abort":
                s.t.abort()
            if d == b"pause":
                s.t.pause_reading() if hasattr(s.t, "pause_reading") else None

        def connection_made(s, t):
            s.t = t

        def error_received(s, e):
            out.append(type(e).__name__)

        def connection_lost(s, e):
            out.append("lost")

    for act in (b"close", b"raise", b"abort"):
        t, p = await loop.create_datagram_endpoint(P, ("127.0.0.1", 0))
        addr = t.get_extra_info("sockname")
        t2, p2 = await loop.create_datagram_endpoint(P, ("127.0.0.1", 0))
        for d in (b"a", act, b"b", b"c"):
            t2.sendto(d, addr)
        for d, a in (
            (b"x", ("127.0.0.1", 0)),
            (b"x", ("256.1.1.1", 1)),
            (b"x", ("127.0.0.1", 70000)),
            (b"x", ("::1", 5)),
            (b"x", 5),
            ("str", addr),
            (b"x" * 70000, addr),
            (bytearray(b"y" * 100), addr),
            (b"", addr),
            (memoryview(b"abcdef")[::2], addr),
            (b"x", ("127.0.0.1",)),
            (b"x", ("127.0.0.1", "a")),
        ):
            try:
                t2.sendto(d, a)
            except BaseException as e:
                out.append((type(e).__name__, str(e)[:50]))
        ba = bytearray(b"z" * 50)
        t2.sendto(ba, addr)
        ba.clear()
        await asyncio.sleep(0.02)
        t.close()
        t2.close()
        await asyncio.sleep(0.01)
        print(out)
        out.clear()


asyncio.run(main())
