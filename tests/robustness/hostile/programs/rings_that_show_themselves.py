"""Calls repr() of objects in a reference cycle, also in a thread with a small stack."""

import asyncio
import threading


def look():
    loop = asyncio.new_event_loop()
    reader = asyncio.StreamReader(loop=loop)
    reader.set_transport(reader)
    writer = asyncio.StreamWriter(None, None, reader, loop)
    writer._transport = writer
    waiting = asyncio.StreamReader(loop=loop)
    waiting._waiter = waiting
    queue = asyncio.Queue()
    queue.put_nowait(queue)
    future = loop.create_future()
    future.set_result(future)
    chain = asyncio.Queue()
    for _ in range(400):
        outer = asyncio.Queue()
        outer.put_nowait(chain)
        chain = outer
    for thing in (reader, writer, waiting, queue, future, chain):
        try:
            repr(thing)
        except RecursionError:
            print(type(thing).__name__, "RecursionError")
        else:
            print(type(thing).__name__, "shown")
    condition = asyncio.Condition()
    condition.locked = condition._lock.locked = lambda: condition.locked()
    for ask in (writer.is_closing, writer.can_write_eof, condition.locked, lambda: writer.write(b"x")):
        try:
            ask()
        except RecursionError:
            print("RecursionError")
    writer._transport = reader._transport = None
    future.__init__(loop=loop)
    loop.close()


look()
if asyncio.__name__ == "rondel":  # with asyncio's own objects such a thread's stack overflows
    threading.stack_size(256 * 1024)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
