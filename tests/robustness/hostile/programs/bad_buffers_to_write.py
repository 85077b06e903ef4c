"""Writes objects that are no buffers, or whose buffers are invalid."""

import array
import asyncio
import ctypes
import socket


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda l, c: print("handler", type(c.get("exception")).__name__))

    class B(bytes):
        def __len__(self):
            return 5

        def __bytes__(self):
            return b"other"

        def __buffer__(self, f):
            raise RuntimeError

    class BA(bytearray):
        def __len__(self):
            return 10**9

    rel = memoryview(bytearray(b"released"))
    rel.release()
    for x in (
        B(b"abcdefghij"),
        BA(b"123"),
        rel,
        memoryview(bytearray(20))[::3],
        memoryview(array.array("d", [1.0] * 4)),
        "str",
        5,
        None,
        [b"x"],
        (ctypes.c_char * 5)(*b"hello"),
        memoryview((ctypes.c_char * 5)(*b"hello")),
        memoryview(b"").cast("B"),
        b"",
    ):
        a, b = socket.socketpair()
        a.setblocking(False)
        b.settimeout(0.05)
        t, p = await loop.create_connection(asyncio.Protocol, sock=a)
        try:
            t.write(x)
        except BaseException as e:
            print(type(e).__name__, str(e)[:80])
        await asyncio.sleep(0)
        try:
            # Some releases look at the lost connection's loop, and count the items of an array as
            # its bytes.
            if not t.is_closing() and getattr(x, "format", "B") != "d":
                t.writelines([b"a", x, b"b"])
        except BaseException as e:
            print("wl", type(e).__name__, str(e)[:80])
        await asyncio.sleep(0.01)
        try:
            print(b.recv(200))
        except OSError as e:
            print(type(e).__name__)
        t.abort()
        b.close()


asyncio.run(main())
