"""Under a memory limit, allocations raise MemoryError, and the process never ends by a signal."""

import resource
import textwrap

import pytest
from child_programs import child, finish

BEGIN = """
import os, resource, socket

def limit(megabytes):
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (megabytes << 20), resource.RLIM_INFINITY))

def fill():
    # Until memory is left for small pieces only.
    limit(10)
    for size in 1_000_000, 10_000, 1000, 600:
        try:
            while True:
                filled.append(bytes(size))
        except MemoryError:
            pass

filled = []

def connected():
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return one, other

async def main():
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    hold = []
    reserve = [bytearray(4 << 20)]  # for what the program does when there is no more
    try:
"""
END = """
    except MemoryError:
        reserve.clear()
        hold.clear()
        filled.clear()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.write(1, b"MemoryError")
        os._exit(0)

try:
    asyncio.run(main())
except MemoryError:
    os.write(1, b"MemoryError")
    os._exit(0)
"""

#: Programs that allocate memory until the limit is reached.
PROGRAMS = {
    "call_soon": """
        limit(30)
        while True:
            loop.call_soon(int)
    """,
    "call_soon of one": """
        def nothing(): pass
        limit(30)
        while True:
            loop.call_soon(nothing)
    """,
    "call_soon_threadsafe": """
        limit(30)
        while True:
            loop.call_soon_threadsafe(int)
    """,
    "call_later": """
        limit(30)
        while True:
            hold.append(loop.call_later(1000, int))
    """,
    "create_future": """
        limit(30)
        while True:
            hold.append(loop.create_future())
    """,
    "create_task": """
        async def nothing(): pass
        limit(30)
        while True:
            hold.append(loop.create_task(nothing()))
    """,
    "add_done_callback": """
        future = loop.create_future()
        limit(30)
        while True:
            future.add_done_callback(repr)
    """,
    "a queue": """
        queue = asyncio.Queue()
        item = object()
        limit(30)
        while True:
            queue.put_nowait(item)
    """,
    "a queue of bytes": """
        queue = asyncio.LifoQueue()
        limit(30)
        while True:
            queue.put_nowait(bytes(1000))
    """,
    "feed_data": """
        reader = asyncio.StreamReader()
        limit(30)
        while True:
            reader.feed_data(b"x" * 100_000)
    """,
    "feed_data of much": """
        reader = asyncio.StreamReader()
        limit(30)
        reader.feed_data(bytes(8 << 20))
        reader.feed_data(bytes(8 << 20))
        reader.feed_data(bytes(8 << 20))
        reader.feed_data(bytes(8 << 20))
    """,
    "write": """
        one, other = connected()
        _, writer = await asyncio.open_connection(sock=one)
        limit(30)
        while True:
            writer.write(b"x" * 10_000)
    """,
    "writelines": """
        one, other = connected()
        _, writer = await asyncio.open_connection(sock=one)
        pieces = [b"x" * 1000] * 100_000
        limit(30)
        while True:
            writer.writelines(pieces)
    """,
    "a second piece": """
        pairs = [connected() for _ in range(400)]
        transports = [
            (await loop.create_connection(asyncio.Protocol, sock=one))[0] for one, _ in pairs
        ]
        piece = bytes(1)
        for transport in transports:
            transport.write(bytes(500_000))
        await asyncio.sleep(0.01)
        fill()
        while True:
            for transport in transports:
                transport.write(piece)
    """,
    "a second datagram": """
        transports = []
        for number in range(200):
            one, other = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
            other.bind(f"\\0rondel-{os.getpid()}-{number}")
            one.connect(other.getsockname())
            hold.append(other)
            transports.append((await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=one))[0])
        piece = bytes(1)
        for transport in transports:
            for _ in range(600):
                transport.sendto(piece)
        await asyncio.sleep(0.01)
        fill()
        while True:
            for transport in transports:
                transport.sendto(piece)
    """,
    "a second piece for a pipe": """
        pairs = [os.pipe() for _ in range(200)]
        transports = [
            (await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(write, "wb", 0)))[0]
            for _, write in pairs
        ]
        piece = bytes(1)
        for transport in transports:
            transport.write(bytes(100_000))
        await asyncio.sleep(0.01)
        fill()
        while True:
            for transport in transports:
                transport.write(piece)
    """,
    "a pipe": """
        read, write = os.pipe()
        transport, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(write, "wb", 0))
        limit(30)
        while True:
            transport.write(bytes(100_000))
    """,
    "gather": """
        limit(30)
        size = 1000
        while True:
            hold.append(asyncio.gather(*[loop.create_future() for _ in range(size)]))
            size *= 2
    """,
    "run_in_executor": """
        import threading
        go = threading.Event()
        futures = [loop.run_in_executor(None, go.wait) for _ in range(64)]
        await asyncio.sleep(0.05)
        limit(30)
        try:
            while True:
                hold.append(loop.run_in_executor(None, int))
        finally:
            go.set()
    """,
    "what is received": """
        one, other = connected()
        reader, _ = await asyncio.open_connection(sock=one, limit=1 << 30)
        loop.set_exception_handler(lambda loop, context: hold.append(context["message"]))
        async def send():
            while True:
                await loop.sock_sendall(other, b"y" * 1_000_000)
        task = asyncio.create_task(send())
        limit(30)
        await reader.readexactly(1 << 28)
    """,
}


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="memory cannot be limited here")
@pytest.mark.timeout(40)
@pytest.mark.parametrize("name", PROGRAMS)
def test_memory_error(impl, name):
    if (impl.name, name) == ("asyncio", "run_in_executor"):
        pytest.skip("what asyncio cannot get may be a lock, and then it says RuntimeError")
    program = BEGIN + textwrap.indent(textwrap.dedent(PROGRAMS[name]), " " * 8) + END
    process = child(impl, program)
    out, err = finish(process, 20)
    assert (out, process.returncode) == ("MemoryError", 0), err[-2000:]
