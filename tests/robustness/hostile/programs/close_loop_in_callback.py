"""Closes a loop that runs, and uses it afterwards."""

import asyncio

loop = asyncio.new_event_loop()


def cb():
    try:
        loop.close()
    except BaseException as e:
        print(type(e).__name__, e)
    loop.stop()


loop.call_soon(cb)
loop.run_forever()
loop.close()
print(loop.is_closed())
for f in (
    loop.run_forever,
    lambda: loop.call_soon(print),
    lambda: loop.create_future().set_result(1),
    lambda: loop.call_later(1, print),
    lambda: loop.add_reader(0, print),
    lambda: loop.stop(),
    lambda: loop.call_soon_threadsafe(print),
):
    try:
        print(f())
    except BaseException as e:
        print(type(e).__name__, e)
