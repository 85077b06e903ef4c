"""Changes a written buffer before it is sent."""

import asyncio


async def main():
    got = bytearray()
    done = asyncio.get_running_loop().create_future()

    async def h(r, w):
        while d := await r.read(65536):
            got.extend(d)
        done.set_result(None)
        w.close()

    s = await asyncio.start_server(h, "127.0.0.1", 0)
    r, w = await asyncio.open_connection(*s.sockets[0].getsockname())
    exp = bytearray()
    for i in range(200):
        b = bytearray(bytes([i % 256]) * (1 + i * 37))
        exp += b
        w.write(b)
        b[:] = b"X" * len(b)
        b.clear()
        b.extend(b"zz")
        m = bytearray(b"mem%d" % i)
        mv = memoryview(m)
        exp += m
        w.write(mv)
        mv.release()
        m.clear()
    big = bytearray(b"q" * 3_000_000)
    exp += big
    w.write(big)
    big[:] = b""
    import array

    a = array.array("I", range(1000))
    exp += a.tobytes()
    try:
        w.write(memoryview(a))
        a[0] = 99
    except Exception as e:
        print("array", type(e).__name__, e)
    w.write_eof()
    await done
    print(len(got) == len(exp), got == exp)
    w.close()
    s.close()


asyncio.run(main())
