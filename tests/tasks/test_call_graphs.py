"""Call graphs of CPython 3.14 and later, and tools that inspect the process from outside."""

import asyncio
import contextvars
import gc
import subprocess
import sys
import textwrap
import weakref

import pytest

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio has had no call graphs")


def shape(graph):
    """Return a graph as nested tuples: name, functions on the call stack, awaiters."""
    name = graph.future.get_name() if isinstance(graph.future, asyncio.Task) else "future"
    stack = tuple(entry.frame.f_code.co_name for entry in graph.call_stack)
    return name, stack, tuple(sorted(shape(awaiter) for awaiter in graph.awaited_by))


async def turns(aio, count=3):
    for _ in range(count):
        await aio.sleep(0)


def test_a_future_knows_who_awaits_it(run, aio):
    async def main():
        future = aio.get_running_loop().create_future()

        async def inner():
            return await future

        async def outer():
            return await inner()

        assert future._asyncio_awaited_by is None
        one = aio.create_task(outer(), name="one")
        await turns(aio)
        assert future._asyncio_awaited_by == {one}
        two = aio.create_task(outer(), name="two")
        await turns(aio)
        assert future._asyncio_awaited_by == {one, two}
        expected = ("future", (), (("one", ("inner", "outer"), ()), ("two", ("inner", "outer"), ())))
        assert shape(aio.capture_call_graph(future)) == expected
        future.set_result(5)
        assert future._asyncio_awaited_by == {one, two}
        assert await aio.gather(one, two) == [5, 5]
        assert not future._asyncio_awaited_by

    run(main())


def test_tasks_that_await_tasks(run, aio):
    async def main():
        gate = aio.Event()

        async def child():
            await gate.wait()

        async def parent():
            async with aio.TaskGroup() as group:
                group.create_task(child(), name="child")

        task = aio.create_task(parent(), name="parent")
        await turns(aio)
        (found,) = (task for task in aio.all_tasks() if task.get_name() == "child")
        assert found._asyncio_awaited_by == {task}
        name, stack, awaiters = shape(aio.capture_call_graph(found))
        assert (name, stack[-1]) == ("child", "child")
        assert [awaiter[0] for awaiter in awaiters] == ["parent"]
        text = aio.format_call_graph(found)
        assert "* Task(name='child'" in text
        assert "Awaited by:" in text
        assert "* Task(name='parent'" in text
        gate.set()
        await task
        assert not found._asyncio_awaited_by

    run(main())


def test_gathered_and_mixed(run, aio):
    async def main():
        gate = aio.get_running_loop().create_future()

        async def child():
            await gate

        me = aio.current_task()
        children = [aio.create_task(child()), asyncio.tasks._CTask(child(), loop=aio.get_running_loop())]
        both = aio.gather(*children)
        await turns(aio)
        assert gate._asyncio_awaited_by == set(children)
        assert [task._asyncio_awaited_by for task in children] == [{me}, {me}]
        gate.set_result(None)
        await both
        assert not any(task._asyncio_awaited_by for task in children)

    run(main())


def test_awaiters_are_let_go(run, aio):
    async def main():
        future = aio.get_running_loop().create_future()

        async def wait(future):
            await future

        tasks = [aio.create_task(wait(future)) for _ in range(3)]
        await turns(aio)
        gone = [weakref.ref(task) for task in tasks] + [weakref.ref(future)]
        for task in tasks:
            task.cancel()
        await aio.wait(tasks)
        tasks.clear()
        del task, future
        gc.collect()
        assert [ref() for ref in gone] == [None] * 4

        # A future that is never done is destroyed with its awaiters.
        async def forever():
            await aio.get_running_loop().create_future()

        task = aio.create_task(forever())
        await turns(aio)
        task._log_destroy_pending = False
        gone = weakref.ref(task)
        del task
        gc.collect()
        assert gone() is None

    run(main())


def test_a_task_that_a_program_registers_again(run, aio):
    async def main():
        task = aio.create_task(aio.sleep(0))
        await task
        asyncio.tasks._register_task(task)
        assert task not in aio.all_tasks()  # it is done
        del task
        gc.collect()
        assert aio.all_tasks() == {aio.current_task()}

    run(main())


def test_initialized_twice(run, aio):
    async def main():
        async def nothing():
            pass

        def again(instance, *args):
            try:
                instance.__init__(*args, loop=aio.get_running_loop())
            except RuntimeError as error:
                return str(error)
            return "initialized"

        future = aio.get_running_loop().create_future()
        expected = again(asyncio.futures._CFuture(loop=aio.get_running_loop()))
        assert again(future) == expected.replace("_asyncio.", f"{type(future).__module__}.")

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 15), reason="transports have had no context of their own")
def test_transports_keep_their_context(run, aio):
    variable = contextvars.ContextVar("variable", default="unset")

    async def main():
        seen = []

        class Protocol(aio.Protocol):
            def __init__(self, name):
                self.name = name

            def connection_made(self, transport):
                seen.append((self.name, "made", variable.get()))
                variable.set(f"{self.name}'s own")
                self.transport = transport

            def data_received(self, data):
                seen.append((self.name, data, variable.get()))
                if self.name == "server":
                    self.transport.write(b"back")
                else:
                    self.transport.close()

            def connection_lost(self, exc):
                seen.append((self.name, "lost", variable.get()))
                if self.name == "server":
                    done.set_result(None)

        loop = aio.get_running_loop()
        done = loop.create_future()
        variable.set("outside")
        server = await loop.create_server(lambda: Protocol("server"), "127.0.0.1", 0)
        transport, _ = await loop.create_connection(lambda: Protocol("client"), *server.sockets[0].getsockname())
        assert variable.get() == "outside"
        transport.write(b"there")
        await done
        server.close()
        await server.wait_closed()
        return sorted(seen, key=lambda call: call[0])

    assert run(main()) == [
        ("client", "made", "outside"),
        ("client", b"back", "client's own"),
        ("client", "lost", "client's own"),
        ("server", "made", "outside"),
        ("server", b"there", "server's own"),
        ("server", "lost", "server's own"),
    ]


PROGRAM = """
import asyncio, os, sys
if {install}:
    import rondel
    rondel.install()

async def child():
    await asyncio.sleep(100)

async def parent():
    async with asyncio.TaskGroup() as group:
        group.create_task(child(), name="the child")

async def main():
    task = asyncio.create_task(parent(), name="the parent")
    lock = asyncio.Lock()
    await lock.acquire()
    other = asyncio.create_task(lock.acquire(), name="no function of its own")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    task.cancel()
    other.cancel()
    await asyncio.wait([task, other])

asyncio.run(main())
"""


@pytest.mark.parametrize("install", [False, True], ids=["asyncio", "rondel"])
def test_from_outside_the_process(install):
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM.format(install=install))]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        asked = {
            command: subprocess.run(
                [sys.executable, "-m", "asyncio", command, str(process.pid)], capture_output=True, text=True, timeout=30
            )
            for command in ("ps", "pstree")
        }
        process.stdin.close()
        assert process.wait(30) == 0
    if "ermission" in asked["ps"].stderr:
        pytest.skip("this machine lets no process look into another")
    tables = asked["ps"].stdout
    assert asked["ps"].returncode == 0, asked["ps"].stderr
    (line,) = (line for line in tables.splitlines() if " the child " in line)
    assert "the parent" in line
    assert "child" in line.split("the child")[1]
    for name in ("Task-1", "the parent", "no function of its own"):
        assert name in tables
    tree = asked["pstree"].stdout
    assert tree.index("(T) the parent") < tree.index("(T) the child") < tree.index("child <string>:8")
