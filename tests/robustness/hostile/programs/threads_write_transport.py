"""Writes to a transport from several threads."""

import asyncio
import socket
import threading


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda l, c: None)
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    r, w = await asyncio.open_connection(sock=a)
    r2, w2 = await asyncio.open_connection(sock=b)
    stop = False

    def f():
        while not stop:
            try:
                w.write(b"x" * 1000)
                w.transport.pause_reading()
                w.transport.resume_reading()
                w.transport.get_write_buffer_size()
                repr(w.transport)
                w.transport.set_write_buffer_limits(high=100000)
            except Exception as e:
                pass

    ts = [threading.Thread(target=f) for _ in range(3)]
    for t in ts:
        t.start()
    n = 0
    import time

    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        n += len(await r2.read(100000))
        w.write(b"y" * 100)
    stop = True
    for t in ts:
        t.join()
    w.close()
    w2.close()
    print(n > 0)


asyncio.run(main())
