"""Makes the future of gather() a child of its own."""

import asyncio


async def main():
    loop = asyncio.get_running_loop()
    f = loop.create_future()
    g = asyncio.gather(f)
    g._children.append(g)
    try:
        g.cancel()
        print("no error")
    except RecursionError:
        print("RecursionError")
    import os
    import sys

    sys.stdout.flush()
    os._exit(0)


asyncio.run(main())
