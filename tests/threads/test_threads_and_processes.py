"""Executors, fork, Ctrl-C, and side effects of importing the package."""

import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from child_programs import child, finish


def test_run_in_executor(run, aio):
    async def main():
        loop = aio.get_running_loop()
        thread = await loop.run_in_executor(None, threading.current_thread)
        assert thread is not threading.current_thread()
        assert thread.name.startswith("asyncio_")
        assert await loop.run_in_executor(None, divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        with concurrent.futures.ThreadPoolExecutor(1) as mine:
            assert await loop.run_in_executor(mine, threading.get_ident) != threading.get_ident()
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            loop.run_in_executor(None, print)

    run(main())


def test_set_default_executor(run, aio):
    async def main():
        loop = aio.get_running_loop()
        with pytest.raises(TypeError, match="executor must be ThreadPoolExecutor instance"):
            loop.set_default_executor("text")
        pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine")
        loop.set_default_executor(pool)
        assert loop._default_executor is pool
        assert (await aio.to_thread(threading.current_thread)).name.startswith("mine")

    run(main())


def test_many_jobs_at_once(run, aio):
    async def main():
        assert await aio.gather(*(aio.to_thread(pow, number, 2) for number in range(200))) == [
            number**2 for number in range(200)
        ]

    run(main())


def test_fork_while_a_loop_runs(impl):
    process = child(
        impl,
        """
        import os

        async def work():
            await asyncio.sleep(0.001)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"from the child")
            writer.close()
            await writer.wait_closed()

        async def main():
            global address
            got = asyncio.get_running_loop().create_future()
            async def handle(reader, writer):
                got.set_result(await reader.read())
                writer.close()
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    try:
                        asyncio.get_running_loop()
                    except RuntimeError:
                        asyncio.run(work())
                        status = 0
                finally:
                    os._exit(status)
            print(await asyncio.wait_for(got, 20))
            while not (status := os.waitpid(pid, os.WNOHANG))[0]:
                await asyncio.sleep(0.005)
            print("status", os.waitstatus_to_exitcode(status[1]))
            server.close()
            await server.wait_closed()

        import warnings
        warnings.simplefilter("ignore")
        asyncio.run(main())
        """,
    )
    out, err = finish(process)
    assert (out, process.returncode) == ("b'from the child'\nstatus 0\n", 0), err


def test_ctrl_c_cancels_the_main_task(impl):
    process = child(
        impl,
        """
        async def main():
            print("ready", flush=True)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("cancelled", flush=True)
                raise
            finally:
                await asyncio.sleep(0)
                print("cleaned up", flush=True)

        asyncio.run(main())
        """,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert out == "cancelled\ncleaned up\n"
    assert process.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_twice_ends_a_main_task_that_will_not_go(impl):
    process = child(
        impl,
        """
        async def main():
            print("ready", flush=True)
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    # Printed a little later: the next signal must arrive while the loop waits.
                    asyncio.get_running_loop().call_later(0.05, lambda: print("refused", flush=True))

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "refused\n"
    process.send_signal(signal.SIGINT)
    # The runner cancels the remaining task, which refuses again. Then only a third Ctrl-C helps.
    assert process.stdout.readline() == "refused\n"
    process.send_signal(signal.SIGINT)
    out, _ = finish(process)
    assert out == "interrupted\n"
    assert process.returncode == 0


def test_ctrl_c_in_a_busy_callback(impl):
    process = child(
        impl,
        """
        def busy():
            print("busy", flush=True)
            while True:
                pass

        async def main():
            asyncio.get_running_loop().call_soon(busy)
            await asyncio.sleep(60)

        asyncio.run(main())
        """,
    )
    assert process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)  # the first only cancels; Python runs its handler inside the loop of busy()
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert "KeyboardInterrupt" in err
    assert process.returncode == -signal.SIGINT


def test_ctrl_c_with_run_forever(impl):
    process = child(
        impl,
        """
        import signal
        loop = asyncio.new_event_loop()
        loop.call_soon(lambda: print("ready", flush=True))
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("out", loop.is_running())
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        """,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert out == "out False\n", err
    assert process.returncode == 0


def test_a_signal_handler_of_the_program_runs_while_the_loop_sleeps(impl):
    process = child(
        impl,
        """
        import signal
        async def main():
            done = asyncio.get_running_loop().create_future()
            loop = asyncio.get_running_loop()
            signal.signal(signal.SIGUSR1, lambda *a: loop.call_soon_threadsafe(done.set_result, "signalled"))
            print("ready", flush=True)
            print(await done)

        asyncio.run(main())
        """,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    out, err = finish(process)
    assert (out, process.returncode) == ("signalled\n", 0), err


def test_loops_in_many_threads_talk_to_each_other(impl, aio):
    results = []

    def work():
        async def main():
            async def handle(reader, writer):
                writer.write((await reader.readexactly(3))[::-1])
                writer.close()

            async with await aio.start_server(handle, "127.0.0.1", 0) as server:
                for _ in range(20):
                    reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
                    writer.write(b"abc")
                    results.append(await reader.read())
                    writer.close()
                    await writer.wait_closed()

        with aio.Runner(loop_factory=impl.new_event_loop) as runner:
            runner.run(main())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"cba"] * 80


@pytest.mark.one_mode
def test_threads_that_call_in_a_row_hold_up_no_timer(loop, aio):
    """Their calls do not pile up: they come no faster than the loop runs them."""
    seen = []

    def once():
        stop = threading.Event()
        posted = [0] * 4
        ran = [0]

        def callback():
            ran[0] += 1

        def call_in_a_row(index):
            while not stop.is_set():
                loop.call_soon_threadsafe(callback)
                posted[index] += 1

        threads = [threading.Thread(target=call_in_a_row, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        begin = time.monotonic()
        loop.run_until_complete(aio.sleep(0.005))
        seen.append((time.monotonic() - begin, sum(posted) - ran[0]))
        stop.set()
        for thread in threads:
            thread.join()
        loop.run_until_complete(aio.sleep(0))

    # A busy machine may delay anything, but not each time.
    while len(seen) < 5 and not any(seconds < 0.8 and waiting < 100_000 for seconds, waiting in seen):
        once()
    assert any(seconds < 0.8 and waiting < 100_000 for seconds, waiting in seen), seen


@pytest.mark.one_mode
@pytest.mark.parametrize("runs", [False, True])
def test_threads_that_call_in_a_row_let_the_interpreter_go(loop, aio, runs):
    """Also before the loop runs: the thread that is about to run it waits for the GIL."""
    stop = threading.Event()

    def call_in_a_row():
        while not stop.is_set():
            loop.call_soon_threadsafe(int)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(4)  # seconds; no thread is forced to release the GIL
    try:
        began = time.monotonic()
        thread = threading.Thread(target=call_in_a_row)
        thread.start()
        if runs:
            loop.run_until_complete(aio.sleep(0.005))
        took = time.monotonic() - began
    finally:
        stop.set()
        sys.setswitchinterval(interval)
    thread.join()
    assert took < 3
    loop.run_until_complete(aio.sleep(0))


def test_get_event_loop_inside(run, aio):
    async def main():
        assert aio.get_event_loop() is aio.get_running_loop() is asyncio.get_running_loop()

    run(main())
    with pytest.raises(RuntimeError, match="no running event loop"):
        aio.get_running_loop()


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="counts threads by /proc")
def test_importing_starts_nothing():
    program = """
    import os, socket, sys, threading, warnings
    warnings.simplefilter("error")
    import asyncio
    opened = []
    sys.addaudithook(lambda event, args: opened.append((event, args)) if event.startswith("socket.") else None)
    before = set(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    import rondel
    after = set(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    assert before == after, (before, after)
    assert not opened, opened
    assert type(asyncio.new_event_loop()) is asyncio.SelectorEventLoop
    """
    subprocess.run([sys.executable, "-W", "ignore::ResourceWarning", "-c", textwrap.dedent(program)], check=True)
