"""Closes descriptors behind the back of transports."""

import asyncio
import os
import socket


async def main():
    loop = asyncio.get_running_loop()
    out = []
    loop.set_exception_handler(lambda l, c: out.append(type(c.get("exception")).__name__))
    for act in ("write", "read", "close", "abort"):
        a, b = socket.socketpair()
        a.setblocking(False)

        class P(asyncio.Protocol):
            def connection_lost(s, e):
                out.append((act, "lost", type(e).__name__))

        t, p = await loop.create_connection(P, sock=a)
        os.close(t.get_extra_info("socket").fileno())
        if act == "write":
            t.write(b"x")
            t.write(b"y" * 100000)
        if act == "read":
            b.send(b"x")
        if act == "close":
            t.close()
        if act == "abort":
            t.abort()
        await asyncio.sleep(0.02)
        t.abort()
        await asyncio.sleep(0.01)
        try:
            t._sock.detach() if hasattr(t, "_sock") and t._sock else None
        except BaseException as e:
            out.append(type(e).__name__)
        b.close()
    print(out)


import warnings

warnings.simplefilter("ignore")
import sys

asyncio.run(main())
sys.stdout.flush()
os._exit(0)
