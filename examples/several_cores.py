"""Several cores: one server process per core, all on the same port.

The kernel distributes the connections. `python several_cores.py` compares one process with one per
core, for two seconds each, or as many as its argument says.
"""

import asyncio
import hashlib
import os
import socket
import sys

CONNECTIONS = 32


async def answer(reader, writer):
    # Half a millisecond of real work for each line: with much less, the client would be the
    # bottleneck.
    while line := await reader.readline():
        writer.write(hashlib.pbkdf2_hmac("sha256", line, b"salt", 2000).hex().encode() + b"\n")
        await writer.drain()
    writer.close()


async def serve(port):
    server = await asyncio.start_server(answer, "127.0.0.1", port, reuse_port=True)
    print("ready", flush=True)
    await server.serve_forever()


async def ask(port, until):
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = 0
    while loop.time() < until:
        writer.write(b"line %d\n" % answers)
        assert len(await reader.readline()) == 65
        answers += 1
    writer.close()
    await writer.wait_closed()
    return answers


async def measure(processes, seconds):
    """Measure the responses per second of this number of server processes."""
    # This socket keeps the port reserved. It does not listen, so it gets no connections.
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind(("127.0.0.1", 0))
        port = keeper.getsockname()[1]

        # The same command that runs this program, with other arguments.
        command = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
        servers = [
            await asyncio.create_subprocess_exec(*command, "serve", str(port), stdout=asyncio.subprocess.PIPE)
            for _ in range(processes)
        ]
        try:
            for server in servers:
                assert await server.stdout.readline() == b"ready\n"
            until = asyncio.get_running_loop().time() + seconds
            answers = await asyncio.gather(*(ask(port, until) for _ in range(CONNECTIONS)))
        finally:
            for server in servers:
                server.terminate()
                await server.wait()
    return sum(answers) / seconds


async def compare(seconds):
    cores = len(os.sched_getaffinity(0))
    one = await measure(1, seconds)
    print(f"1 process: {one:.0f} answers a second")
    if cores == 1:
        print("only one core is to be had here: there is nothing to compare it with")
        return
    several = await measure(cores, seconds)
    print(f"{cores} processes: {several:.0f} answers a second, {several / one:.2f} times as many")


async def main():
    if sys.argv[1:2] == ["serve"]:
        await serve(int(sys.argv[2]))
    else:
        await compare(float(sys.argv[1]) if len(sys.argv) > 1 else 2)


asyncio.run(main())
