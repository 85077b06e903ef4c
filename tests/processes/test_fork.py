"""Forks while loops run: the child's loops, the parent's, shared descriptors; process pools."""

import os
import sys

import pytest
from child_programs import output

# The beginning of the programs below.
SILENT = """
import os, signal, warnings
warnings.simplefilter("ignore")

def in_a_fork(work):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def forked(impl, program):
    import textwrap

    return output(impl, SILENT + textwrap.dedent(program))


def test_a_loop_of_its_own_in_the_child(impl):
    out = forked(
        impl,
        """
        async def work():
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"child")
            assert await reader.read() == b"dlihc"
            writer.close()
            assert await asyncio.to_thread(os.getpid) == os.getpid()
            process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 3")
            assert await process.wait() == 3

        def child():
            try:
                asyncio.get_running_loop()
            except RuntimeError as error:
                assert str(error) == "no running event loop"
            else:
                raise AssertionError("a loop runs")
            asyncio.run(work())

        async def main():
            global address
            async def handle(reader, writer):
                writer.write((await reader.readexactly(5))[::-1])
                writer.close()
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, os.getpid)
            statuses = [await asyncio.to_thread(in_a_fork, child)]
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    child()
                    status = 0
                finally:
                    os._exit(status)
            statuses.append(await asyncio.to_thread(os.waitpid, pid, 0))
            print(statuses[0], statuses[1] == (pid, 0))
            server.close()

        asyncio.run(main())
        """,
    )
    assert out == "0 True\n"


def test_no_function_takes_the_parents_loop_for_one_that_runs_in_the_child(impl):
    out = forked(
        impl,
        """
        async def nothing():
            pass

        def outcome(function, *args):
            try:
                function(*args)
            except (RuntimeError, AttributeError) as error:
                return type(error).__name__, str(error)

        def outcomes():
            coroutines = [nothing()]
            timeout = asyncio.Timeout(None).__aenter__()
            sleep = asyncio.sleep(1)
            made = [
                outcome(asyncio.get_running_loop),
                outcome(asyncio.create_task, coroutines[0]),
                outcome(asyncio.timeout, 10),
                outcome(timeout.send, None),
                outcome(sleep.send, None),
            ]
            for coroutine in coroutines + [timeout, sleep]:
                coroutine.close()
            return made

        def child():
            global expected
            assert outcomes() == expected, outcomes()

        expected = outcomes()
        assert expected[0] == ("RuntimeError", "no running event loop")

        async def main():
            print(in_a_fork(child))
            # The parent's is there still.
            await asyncio.create_task(nothing())
            asyncio.timeout(10)

        asyncio.run(main())
        """,
    )
    assert out == "0\n"


def test_what_the_child_does_with_the_loop_it_was_forked_with_is_not_done_to_the_parent(impl):
    if not impl.is_rondel:
        pytest.skip("asyncio's child takes the parent's descriptors from the epoll instance that they share")
    out = forked(
        impl,
        """
        import socket
        loop = asyncio.new_event_loop()
        ours, theirs = socket.socketpair()
        other, others = socket.socketpair()
        loop.add_signal_handler(signal.SIGUSR1, print, "signal")
        loop.add_reader(ours, lambda: (print("read", ours.recv(99)), loop.stop()))

        def child():
            loop.add_reader(other, print, "never")
            assert loop.remove_reader(ours)
            loop.close()

        print(in_a_fork(child))
        others.send(b"to the child's")
        theirs.send(b"still here")
        loop.call_later(20, loop.stop)
        loop.run_forever()
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        loop.call_later(0.02, loop.stop)
        loop.run_forever()
        loop.close()
        """,
    )
    assert out == "0\nread b'still here'\nsignal\n"


def test_the_child_goes_on_with_the_loop_it_was_forked_with(impl):
    if not impl.is_rondel:
        pytest.skip("asyncio's child and parent take each other's wake-ups")
    out = forked(
        impl,
        """
        import socket, threading
        loop = asyncio.new_event_loop()
        ours, theirs = socket.socketpair()
        got = []
        loop.add_reader(ours, lambda: (got.append(ours.recv(99)), loop.stop()))

        def child():
            theirs.send(b"child's")
            loop.run_forever()
            assert got == [b"child's"], got
            threading.Timer(0.01, loop.call_soon_threadsafe, (loop.stop,)).start()
            loop.run_forever()
            loop.close()

        print(in_a_fork(child))
        theirs.send(b"parent's")
        loop.run_forever()
        print(got)
        threading.Timer(0.01, loop.call_soon_threadsafe, (loop.stop,)).start()
        loop.run_forever()
        loop.close()
        """,
    )
    assert out == '0\n[b"parent\'s"]\n'


@pytest.mark.skipif(sys.version_info < (3, 12), reason="on 3.11 asyncio's child has the parent's wakeup descriptor")
def test_signals_of_the_child_do_not_come_to_the_parent(impl):
    out = forked(
        impl,
        """
        async def main():
            loop = asyncio.get_running_loop()
            got = []
            loop.add_signal_handler(signal.SIGUSR1, got.append, "signal")

            def child():
                os.kill(os.getpid(), signal.SIGUSR1)

            print(in_a_fork(child))
            await asyncio.sleep(0.01)
            print(got)
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
            print(got)

        asyncio.run(main())
        """,
    )
    assert out == "0\n[]\n['signal']\n"


def test_many_forks_while_threads_post(impl):
    """Threads that wake the loop during a fork are not in the child.

    Locks they held are free there.
    """
    out = forked(
        impl,
        """
        import threading
        async def nothing():
            await asyncio.sleep(0.001)
            return await asyncio.to_thread(int, "7")

        def child():
            assert asyncio.run(nothing()) == 7

        async def main():
            loop = asyncio.get_running_loop()
            stop = threading.Event()
            came = 0

            def count():
                nonlocal came
                came += 1

            def post():
                nonlocal sent
                while not stop.is_set():
                    loop.call_soon_threadsafe(count)
                    sent += 1

            sent = 0
            thread = threading.Thread(target=post)
            thread.start()
            statuses = []
            for _ in range(20):
                await asyncio.sleep(0.001)
                statuses.append(in_a_fork(child))
            stop.set()
            thread.join()
            await asyncio.sleep(0.01)
            print(set(statuses), came == sent)

        asyncio.run(main())
        """,
    )
    assert out == "{0} True\n"


def test_a_child_that_ends_as_programs_do(impl):
    """Without `os._exit`.

    The child's interpreter shuts down, in the middle of the parent's loop run.
    """
    if not impl.is_rondel:
        pytest.skip("asyncio's executor may wait for the parent's threads for ever")
    out = forked(
        impl,
        """
        import sys
        async def work():
            await asyncio.to_thread(int)
            print("child", flush=True)

        async def main():
            await asyncio.to_thread(int)
            return os.fork()

        loop = asyncio.new_event_loop()
        pid = loop.run_until_complete(main())
        if not pid:
            asyncio.run(work())
            sys.exit()
        print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
    )
    assert out == "child\nstatus 0\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes(impl, tmp_path, method):
    import subprocess

    from child_programs import LOOPS

    program = tmp_path / "program.py"
    program.write_text(
        LOOPS[impl.name]
        + f"""
import concurrent.futures, multiprocessing, os, warnings
warnings.simplefilter("ignore")

async def square(number):
    await asyncio.sleep(0)
    return number**2, os.getpid()

def work(number):
    return asyncio.run(square(number))

async def main():
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context({method!r})
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        results = await asyncio.gather(*(loop.run_in_executor(pool, work, number) for number in range(6)))
    print([result for result, _ in results], os.getpid() in {{pid for _, pid in results}})

if __name__ == "__main__":
    asyncio.run(main())
"""
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=50, env={**os.environ})
    assert (done.stdout, done.stderr, done.returncode) == ("[0, 1, 4, 9, 16, 25] False\n", "", 0)
