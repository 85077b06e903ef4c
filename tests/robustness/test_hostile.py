"""Hostile programs end like on stock asyncio, at worst with an exception, and never by a signal.

Dangerous programs run in a child process, so that a signal is a failed assertion.
"""

import gc
import os
import sys

import pytest
from child_programs import output

# Stacks as small as the default of some platforms. How deep stock asyncio gets on them depends on
# the interpreter's build, and it may crash. So the oracle is its behaviour on a large stack.
SMALL = 256 * 1024


def in_thread(program, stack):
    """Run the program's main() in a thread with a stack of that size."""
    return (
        program
        + f"""
import threading
threading.stack_size({stack})
thread = threading.Thread(target=lambda: asyncio.run(main()))
thread.start()
thread.join()
"""
    )


# ---- tasks that wait for each other ----


def test_cancelling_tasks_that_await_each_other_raises_recursion_error(impl):
    program = """
    import os
    async def main():
        async def a(): await tb
        async def b(): await ta
        ta, tb = asyncio.create_task(a()), asyncio.create_task(b())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        try:
            ta.cancel()
        except RecursionError:
            os.write(1, b"RecursionError")
        os._exit(0)  # the end of run() would cancel them again
    asyncio.run(main())
    """
    assert output(impl, program) == "RecursionError"


def test_run_ends_though_tasks_await_each_other(impl):
    program = """
    import logging
    logging.disable()
    async def main():
        async def a(): await tb
        async def b(): await ta
        ta, tb = asyncio.create_task(a()), asyncio.create_task(b())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    try:
        asyncio.run(main())
    except RecursionError:
        print("RecursionError")
    """
    assert output(impl, program) == "RecursionError\n"


def test_a_gather_that_waits_for_itself_raises_recursion_error(impl):
    program = """
    import os
    async def main():
        outer = asyncio.gather(asyncio.get_running_loop().create_future())
        outer._children.insert(0, outer)
        try:
            outer.cancel()
        except RecursionError:
            os.write(1, b"RecursionError")
        os._exit(0)
    asyncio.run(main())
    """
    assert output(impl, program) == "RecursionError"


def test_a_long_chain_of_gathers_is_cancelled_or_refused(impl):
    program = """
    import os
    async def main():
        outer = asyncio.get_running_loop().create_future()
        for _ in range(60_000):
            outer = asyncio.gather(outer)
        try:
            os.write(1, str(outer.cancel()).encode())
        except RecursionError:
            os.write(1, b"RecursionError")
        os._exit(0)
    asyncio.run(main())
    """
    assert output(impl, program) in ("True", "RecursionError")


# ---- chains of destructors ----

CHAINS = {
    "results": "new = loop.create_future(); new.set_result(last)",
    "callbacks": "new = loop.create_future(); new.add_done_callback(functools.partial(print, last))",
    "handles": "new = asyncio.Handle(print, (last,), loop)",
    "timers": "new = loop.call_later(1000, print, last); new.cancel() if last is None else None",
    "contexts": "variable.set(last); new = loop.call_later(1000, print); timers.append(new)",
    "queues": "new = asyncio.Queue(); new.put_nowait(last)",
    "attributes": "new = asyncio.Event(); new.last = last",
    "awaitables": "new = asyncio.wait_for(last or asyncio.sleep(0), 1)",
    "gathers": "new = asyncio.gather(last or loop.create_future())",
    "shields": "new = asyncio.shield(last or loop.create_future())",
    "tasks": "new = asyncio.ensure_future(asyncio.wait([last or loop.create_future()]))",
}


@pytest.mark.parametrize("stack", [0, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("kind", CHAINS)
def test_a_long_chain_of_objects_is_dropped(impl, kind, stack):
    if stack and (impl.name != "rondel" or kind == "attributes"):
        pytest.skip("asyncio's own objects are not protected everywhere, nor are instance dicts")
    program = f"""
import contextvars, functools, gc, logging, os, warnings
logging.disable()
warnings.simplefilter("ignore")
variable = contextvars.ContextVar("variable")
async def main():
    loop, last, timers = asyncio.get_running_loop(), None, []
    for _ in range(20_000):
        {CHAINS[kind]}
        last = new
    if timers:
        for timer in timers: timer.cancel()
        timers.clear(); timer = None
        variable.set(None)
    new = last = None
    gc.collect()
    os.write(1, b"dropped")
    os._exit(0)
"""
    program = in_thread(program, stack) if stack else program + "\nasyncio.run(main())\n"
    assert output(impl, program) == "dropped"


# ---- chains of awaits, deeper than the stack ----

DEEP = {
    "wait_for": """
    async def f(n):
        return await asyncio.wait_for(f(n - 1), 1000) if n else 5
    """,
    "eager": """
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    async def f(n):
        return await asyncio.create_task(f(n - 1)) if n else 5
    """,
    "gather": """
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    async def f(n):
        return (await asyncio.gather(f(n - 1)))[0] if n else 5
    """,
    "native": """
    async def f(n):
        awaitable = asyncio.sleep(0, 5)
        for _ in range(n):
            awaitable = asyncio.wait_for(awaitable, 1000)
        return await awaitable
    """,
    "cancelled": """
    async def g(n):
        await (asyncio.wait_for(g(n - 1), 1000) if n else asyncio.get_running_loop().create_future())
    async def f(n):
        task = asyncio.ensure_future(g(n))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return 5
    """,
}


@pytest.mark.parametrize("stack", [0, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("kind", DEEP)
def test_awaiting_too_deep_raises_recursion_error(impl, kind, stack):
    if sys.version_info < (3, 12) and kind in ("eager", "gather"):
        pytest.skip("no eager tasks")
    if stack and impl.name != "rondel":
        pytest.skip("asyncio's own objects are not protected everywhere")
    program = f"""
import logging, os, sys, warnings
logging.disable()
warnings.simplefilter("ignore")
async def main():
    {DEEP[kind]}
    for depth in (20, 5_000):
        try:
            answer = await f(depth)
        except RecursionError:
            answer = 5
        os.write(1, str(answer).encode())
    os._exit(0)
"""
    program = in_thread(program, stack) if stack else program + "\nasyncio.run(main())\n"
    assert output(impl, program) == "55"


@pytest.mark.parametrize("stack", [0, SMALL], ids=["large", "small"])
def test_a_handle_that_runs_another_one_and_so_on(impl, stack):
    if stack and impl.name != "rondel":
        pytest.skip("asyncio's own objects are not protected everywhere")
    program = """
import os
async def main():
    loop, seen = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda loop, context: seen.append(type(context["exception"])))
    handle = asyncio.Handle(seen.append, (5,), loop)
    for _ in range(20_000):
        handle = asyncio.Handle(handle._run, (), loop)
    handle._run()
    os.write(1, str(seen in ([5], [RecursionError])).encode())
    os._exit(0)
"""
    program = in_thread(program, stack) if stack else program + "\nasyncio.run(main())\n"
    assert output(impl, program) == "True"


# ---- asyncio's callbacks, called by a program ----


@pytest.mark.parametrize("other", [1, None, "text", [], object(), os], ids=str)
def test_what_gather_and_shield_have_among_the_callbacks_refuses_what_is_no_future(run, aio, other):
    async def main():
        loop = aio.get_running_loop()
        futures = [loop.create_future() for _ in range(2)]
        outer = aio.gather(*futures)
        shielded = aio.shield(futures[0])
        for future in futures:
            for callback, _ in list(future._callbacks):
                if getattr(callback, "__name__", "") == "_clear_awaited_by_callback":
                    continue  # 3.14's callback, which accepts anything
                with pytest.raises(AttributeError):
                    callback(other)
        assert not outer.done() and not shielded.done()
        for future in futures:
            future.set_result(5)
        assert await aio.wait_for(shielded, 5) == 5

    run(main())


def test_what_gather_has_among_the_callbacks_refuses_a_future_that_is_not_done(run, aio):
    async def main():
        loop = aio.get_running_loop()
        futures = [loop.create_future() for _ in range(2)]
        outer = aio.gather(*futures)
        callback, _ = futures[0]._callbacks[0]
        with pytest.raises(aio.InvalidStateError):
            callback(loop.create_future())
        assert not outer.done()
        outer.cancel()
        with pytest.raises(aio.CancelledError):
            await outer

    run(main())


# ---- wrong classes and numbers ----


def test_the_methods_of_loops_and_of_tls_are_bound_to_classes_of_their_own_only():
    from rondel import _rondel

    class Foreign:
        pass

    for wrong in (Foreign, int, 5, None):
        with pytest.raises(TypeError):
            _rondel.bind_methods(wrong)
        if hasattr(_rondel, "bind_tls"):
            with pytest.raises(TypeError):
                _rondel.bind_tls(wrong, wrong)
    assert not hasattr(Foreign, "call_soon")


def test_a_handle_with_a_run_of_its_own(run, aio):
    async def main():
        ran = []

        class Own(aio.Handle):
            def _run(self):
                ran.append(self._args)
                super()._run()

        loop = aio.get_running_loop()
        loop._add_callback(Own(ran.append, (5,), loop))
        cancelled = Own(ran.append, (6,), loop)
        loop._add_callback(cancelled)
        cancelled.cancel()
        await aio.sleep(0)
        assert ran == [(5,), 5]

    run(main())


@pytest.mark.parametrize("number", [2**31 - 1, 20_000_000, 1_000_000])
def test_a_number_that_is_no_descriptor_costs_nothing(loop, number):
    class Gone:
        def fileno(self):
            return number

    def memory():
        with open("/proc/self/statm") as status:
            return int(status.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = memory()
    for fd in (number, Gone()):
        for watch in (loop.add_reader, loop.add_writer):
            with pytest.raises(OSError, match="Bad file descriptor"):
                watch(fd, print)
    assert memory() - before < 2 << 20


def test_a_large_descriptor_costs_no_more_than_a_small_one(loop):
    import fcntl
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(limit[1], 1_000_000) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    read, write = os.pipe()
    try:
        large = fcntl.fcntl(read, fcntl.F_DUPFD, number - 10)
        try:
            loop.add_reader(large, loop.stop)
            os.write(write, b"x")
            loop.run_forever()
            assert loop.remove_reader(large) is True
            assert loop.remove_reader(large) is False
        finally:
            os.close(large)
    finally:
        os.close(read)
        os.close(write)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.mark.parametrize("number", [10**30, 2**64, 2**63])
def test_a_stream_is_asked_for_more_bytes_than_there_are_numbers(run, aio, number):
    async def main():
        reader = aio.StreamReader()
        reader.feed_data(b"abc")
        reader.feed_eof()
        with pytest.raises(aio.IncompleteReadError) as caught:
            await reader.readexactly(number)
        assert caught.value.partial == b"abc" and caught.value.expected == number
        assert await reader.read(number) == b""
        with pytest.raises(ValueError, match="less than zero"):
            await reader.readexactly(-number)
        assert await reader.read(-number) == b""

    run(main())


@pytest.mark.parametrize("number", ["text", None, 1j, 1.5], ids=str)
def test_a_stream_is_asked_for_no_number_of_bytes(run, aio, number):
    async def main():
        reader = aio.StreamReader()
        reader.feed_data(b"abcdef")
        for method in (reader.readexactly, reader.read):
            with pytest.raises(TypeError):
                await method(number)

    run(main())


@pytest.mark.parametrize("given", [5, "text", ValueError, ValueError("text"), KeyError], ids=str)
def test_a_stream_is_given_an_exception_that_may_be_none(run, aio, given):
    async def main():
        reader = aio.StreamReader()
        reader.feed_data(b"abc\n")
        reader.set_exception(given)
        assert reader.exception() is given
        usual = given if isinstance(given, type) else type(given)
        expected = usual if issubclass(usual, Exception) else TypeError
        for method in (reader.read, reader.readline, reader.readuntil):
            with pytest.raises(expected):
                await method()
        reader.set_exception(None)
        assert await reader.readline() == b"abc\n"

    run(main())


def test_objects_that_were_dropped_late_are_gone(loop, aio):
    """Objects whose destruction is deferred during a long chain are destroyed."""
    ended = []

    class Noted:
        def __del__(self):
            ended.append(1)

    future = None
    for _ in range(1000):
        outer = loop.create_future()
        outer.set_result([future, Noted()])
        future = outer
    del future, outer
    gc.collect()
    assert len(ended) == 1000
