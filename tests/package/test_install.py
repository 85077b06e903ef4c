"""install() and uninstall(), the policy, and the names of the package."""

import asyncio
import asyncio.events
import functools
import gc
import subprocess
import sys
import textwrap

import pytest

rondel = pytest.importorskip("rondel")

STOCK_QUEUE = asyncio.Queue


@pytest.fixture
def installed():
    rondel.install()
    yield
    rondel.uninstall()


def names():
    return {
        (module.__name__, name): value
        for module in list(sys.modules.values())
        if module is not None and getattr(module, "__name__", "").partition(".")[0] == "asyncio"
        for name, value in vars(module).items()
        if name not in ("__builtins__", "__warningregistry__")
    }


def test_every_name_of_asyncio_is_there():
    assert set(asyncio.__all__) <= set(rondel.__all__)
    for name in rondel.__all__:
        assert hasattr(rondel, name), name
    for name in asyncio.__all__:
        stock = vars(asyncio).get(name)
        ours = getattr(rondel, name)
        if isinstance(stock, type) and issubclass(stock, BaseException):
            assert ours is stock
        elif isinstance(stock, type):
            assert issubclass(ours, stock) or name in ("StreamReader", "StreamWriter", "StreamReaderProtocol"), name


def test_install_replaces_and_uninstall_restores_exactly():
    before = names()
    rondel.install()
    during = names()
    rondel.install()
    assert names() == during
    rondel.uninstall()
    assert names() == before
    rondel.uninstall()
    assert names() == before
    changed = {key for key in before if before[key] is not during[key]}
    assert ("asyncio", "Task") in changed
    assert ("asyncio.tasks", "Task") in changed
    assert ("asyncio", "run") in changed
    for module, name in changed:
        if name != "_event_loop_policy":
            assert during[module, name] is getattr(rondel, name), (module, name)


def test_private_names_stay(installed):
    assert asyncio.futures._CFuture is not rondel.Future
    assert asyncio.tasks._CTask is not rondel.Task


@pytest.mark.usefixtures("installed")
def test_asyncio_run_is_on_our_loop():
    async def main():
        assert isinstance(asyncio.get_running_loop(), rondel.EventLoop)
        assert isinstance(asyncio.current_task(), rondel.Task)
        return await asyncio.gather(asyncio.sleep(0, 1), asyncio.to_thread(int, "2"))

    assert asyncio.run(main()) == [1, 2]
    with asyncio.Runner() as runner:
        assert isinstance(runner.get_loop(), rondel.EventLoop)
    loop = asyncio.new_event_loop()
    assert isinstance(loop, rondel.EventLoop)
    loop.close()


@pytest.mark.usefixtures("installed")
def test_a_stock_loop_still_works_while_installed():
    async def main():
        async with asyncio.timeout(5):
            results = await asyncio.gather(*(asyncio.create_task(asyncio.sleep(0, number)) for number in range(10)))
        server = await asyncio.start_server(lambda r, w: (w.write(b"x"), w.close()), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b"x"
            writer.close()
            await writer.wait_closed()
        return results

    loop = asyncio.SelectorEventLoop()
    assert loop.run_until_complete(main()) == list(range(10))
    loop.close()


@pytest.mark.skipif(not hasattr(asyncio.events, "_event_loop_policy"), reason="no policies any more")
def test_policy():
    policy = rondel.EventLoopPolicy()
    # The public name is deprecated from 3.14 on.
    private = getattr(asyncio.events, "_AbstractEventLoopPolicy", None)
    assert isinstance(policy, private or asyncio.AbstractEventLoopPolicy)
    loop = policy.new_event_loop()
    assert isinstance(loop, rondel.EventLoop)
    loop.close()
    rondel.install()
    try:
        assert isinstance(asyncio.events._event_loop_policy, rondel.EventLoopPolicy)
        gc.collect()
    finally:
        rondel.uninstall()
    assert not isinstance(asyncio.events._event_loop_policy, rondel.EventLoopPolicy)


def test_what_others_changed_since_stays(installed, monkeypatch):
    mine = object()
    rondel.install()
    monkeypatch.setattr(asyncio, "run", mine)
    rondel.uninstall()
    assert asyncio.run is mine
    assert asyncio.Queue is STOCK_QUEUE


def test_unittest_uses_it(tmp_path):
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
        import asyncio, unittest
        class It(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                self.loop = asyncio.get_running_loop()
            async def test_loop(self):
                self.assertTrue(type(self.loop).__module__.startswith("rondel"))
                await asyncio.sleep(0)
        """)
    )
    result = subprocess.run(
        [sys.executable, "-m", "rondel", "-m", "unittest", "test_it"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr
    assert "Ran 1 test" in result.stderr


def test_what_others_have_put_over_asyncio_stays(monkeypatch):
    calls = []

    def traced(function):
        @functools.wraps(function)
        async def wrapper(*args, **kwargs):
            calls.append(function.__name__)
            return await function(*args, **kwargs)

        return wrapper

    class Proxy:
        """Like wrapt's wrappers."""

        def __init__(self, wrapped):
            self.__wrapped__ = wrapped

        __class__ = property(lambda self: type(self.__wrapped__))

        def __getattr__(self, name):
            return getattr(self.__wrapped__, name)

        def __call__(self, *args, **kwargs):
            calls.append(self.__wrapped__.__name__)
            return self.__wrapped__(*args, **kwargs)

    class Queue(asyncio.Queue):
        pass

    monkeypatch.setattr(asyncio, "sleep", traced(asyncio.sleep))
    monkeypatch.setattr(asyncio.tasks, "sleep", asyncio.sleep)
    monkeypatch.setattr(asyncio, "gather", Proxy(asyncio.gather))
    monkeypatch.setattr(asyncio, "Queue", Queue)
    before = asyncio.sleep, asyncio.gather, asyncio.Queue
    rondel.install()
    try:
        assert (asyncio.sleep, asyncio.gather, asyncio.Queue) == before

        async def main():
            await asyncio.sleep(0)
            return await asyncio.wait_for(asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2)), 5)

        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "wait_for", traced(asyncio.wait_for))  # now Rondel's
            assert asyncio.run(main()) == [1, 2]
        assert sorted(calls) == ["gather", "sleep", "sleep", "sleep", "wait_for"]
    finally:
        rondel.uninstall()
        monkeypatch.undo()
    assert STOCK_QUEUE is asyncio.Queue
    assert names()["asyncio", "wait_for"] is asyncio.tasks.wait_for


PATCHED_FIRST = """
import asyncio, functools
from asyncio import taskgroups

calls = []
gather, create_task = asyncio.gather, asyncio.TaskGroup.create_task

class Wrapper:
    def __call__(self, *args, **kwargs):
        calls.append("gather")
        return gather(*args, **kwargs)

def wrapped(self, *args, **kwargs):
    calls.append("group")
    return create_task(self, *args, **kwargs)

asyncio.gather = Wrapper()
asyncio.TaskGroup.create_task = wrapped
base_create_task = asyncio.BaseEventLoop.create_task

def of_loop(self, coro, **kwargs):
    calls.append("loop")
    return base_create_task(self, coro, **kwargs)

asyncio.BaseEventLoop.create_task = of_loop
import rondel
rondel.install()
assert asyncio.sleep is rondel.sleep and isinstance(asyncio.gather, Wrapper)

async def work():
    await asyncio.sleep(0)
    assert isinstance(asyncio.current_task(), rondel.Task)

async def main():
    calls.clear()
    await asyncio.gather(work())
    async with asyncio.TaskGroup() as group:
        group.create_task(work())
    await asyncio.create_task(work(), name="named")
    assert asyncio.get_running_loop().get_task_factory() is None
    print(calls)

asyncio.run(main())
asyncio.BaseEventLoop.create_task = base_create_task
calls.clear()
asyncio.run(work())
print(calls)
"""


def test_what_was_patched_before_stays():
    """Tracers patch before Rondel is installed."""
    done = subprocess.run([sys.executable, "-c", PATCHED_FIRST], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["['gather', 'loop', 'group', 'loop', 'loop']", "[]"]
