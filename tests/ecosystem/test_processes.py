"""multiprocessing and fork, with loops in parents and children."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import sys
import warnings

import pytest
import rondel


def in_a_child(factory_name):
    """A child process with its own loop."""

    async def main():
        reader, writer = await asyncio.open_connection(sock=None, host="127.0.0.1", port=port)
        writer.write(b"hello")
        data = await reader.readexactly(5)
        writer.close()
        await writer.wait_closed()
        return data

    port, kind = factory_name
    factory = {
        "asyncio": asyncio.SelectorEventLoop,
        "factory": rondel.new_event_loop,
        "installed": rondel.new_event_loop,
    }[kind]
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes(run, way, method):
    """Children, each with its own loop, connect to a server in the parent."""

    async def main():
        async def echo(reader, writer):
            writer.write(await reader.readexactly(5))
            writer.close()

        async with await asyncio.start_server(echo, "127.0.0.1") as server:
            port = server.sockets[0].getsockname()[1]
            context = multiprocessing.get_context(method)
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                loop = asyncio.get_running_loop()
                calls = [loop.run_in_executor(pool, in_a_child, (port, way)) for _ in range(4)]
                assert await asyncio.gather(*calls) == [b"hello"] * 4

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a fork in a process with threads
        run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_forked_before_the_loop_share_a_listener(programs, port):
    """Pre-fork servers: the parent listens, the children accept on their own loops."""
    program = programs.serve(port, sys.executable, "prefork.py", port)
    import socket

    seen = set()

    def both():
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            seen.add(client.recv(100))
        return len(seen) == 2

    program.wait_until(both, "only one worker answered")
    assert program.stop() == 0


def test_a_child_forked_within_a_loop(run):
    """The child may run a loop of its own; the parent's loop goes on undisturbed."""

    async def main():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with asyncio.Runner(loop_factory=type(asyncio.get_event_loop_policy().new_event_loop())) as runner:
                    status = runner.run(asyncio.sleep(0.01, 7))
            finally:
                os._exit(status)
        await asyncio.sleep(0.01)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        return True

    assert run(main())
