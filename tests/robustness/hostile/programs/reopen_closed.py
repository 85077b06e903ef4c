"""Uses transports, servers and streams after they were closed."""

import asyncio
import os
import sys

loop = asyncio.new_event_loop()
loop.run_until_complete(asyncio.sleep(0)) if asyncio.__name__ != "x" else None
loop.close()
try:
    loop._closed = False
except BaseException as e:
    print(type(e).__name__)
for f in (
    lambda: loop.call_soon(loop.stop),
    loop.run_forever,
    lambda: loop.call_soon_threadsafe(int),
    lambda: loop.call_later(0.01, loop.stop),
    loop.run_forever,
    lambda: loop.add_reader(0, int),
    loop.close,
):
    try:
        print(f() is not None)
    except BaseException as e:
        print(type(e).__name__)
sys.stdout.flush()
os._exit(0)
