"""Two workers that share a listener: `prefork.py PORT`."""

import asyncio
import os
import signal
import socket
import sys

import rondel


async def worker(listener):
    async def answer(_reader, writer):
        writer.write(b"%d" % os.getpid())
        writer.close()

    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    async with await asyncio.start_server(answer, sock=listener):
        await end.wait()


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        with asyncio.Runner(loop_factory=rondel.new_event_loop) as runner:
            runner.run(worker(listener))
        os._exit(0)
    children.append(child)


def end(*_):
    for child in children:
        os.kill(child, signal.SIGTERM)


signal.signal(signal.SIGTERM, end)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
