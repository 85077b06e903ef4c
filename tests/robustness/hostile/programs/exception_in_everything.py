"""Raises in each method of a protocol."""

import asyncio
import socket


async def main():
    loop = asyncio.get_running_loop()
    out = []
    loop.set_exception_handler(lambda l, c: out.append((c["message"][:40], type(c.get("exception")).__name__)))
    for where in ("made", "data", "eof", "lost", "pause", "resume", "factory"):

        class P(asyncio.Protocol):
            def connection_made(s, t):
                s.t = t
                t.set_write_buffer_limits(high=10)
                if where == "made":
                    raise ValueError

            def data_received(s, d):
                if where == "data":
                    raise ValueError

            def eof_received(s):
                if where == "eof":
                    raise ValueError

            def connection_lost(s, e):
                if where == "lost":
                    raise ValueError

            def pause_writing(s):
                if where == "pause":
                    raise ValueError

            def resume_writing(s):
                if where == "resume":
                    raise ValueError

        def fac():
            if where == "factory":
                raise ValueError
            return P()

        a, b = socket.socketpair()
        a.setblocking(False)
        b.setblocking(False)
        b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            t, p = await loop.create_connection(fac, sock=a)
        except ValueError:
            out.append("factory raised")
            continue
        t.write(b"x" * 3_000_000)
        await asyncio.sleep(0.01)
        try:
            while True:
                try:
                    b.recv(1 << 20)
                except BlockingIOError:
                    await asyncio.sleep(0.002)
                    if t.get_write_buffer_size() == 0:
                        break
        except OSError:
            pass
        try:
            b.send(b"hi")
        except OSError as e:
            out.append(type(e).__name__)
        await asyncio.sleep(0.01)
        b.close()
        await asyncio.sleep(0.01)
        t.abort()
        await asyncio.sleep(0.01)
    for o in out:
        print(o)


asyncio.run(main())
