"""to_thread and run_in_executor: cancelling, contexts, exceptions, executors, shutdown."""

import asyncio
import concurrent.futures
import contextvars
import gc
import queue
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref

import pytest


def test_to_thread(run, aio):
    async def main():
        def where(*args, **kwargs):
            return threading.current_thread(), args, kwargs

        thread, args, kwargs = await aio.to_thread(where, 1, 2, func=3, name="four")
        assert thread is not threading.current_thread()
        assert thread.name == "asyncio_0"
        assert isinstance(thread, threading.Thread)
        assert (args, kwargs) == ((1, 2), {"func": 3, "name": "four"})
        assert await aio.to_thread(where) == (thread, (), {})

    run(main())


def test_what_to_thread_returns(run, aio):
    async def main():
        coroutine = aio.to_thread(int)
        assert asyncio.iscoroutine(coroutine)
        assert await coroutine == 0
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await coroutine
        task = aio.create_task(aio.to_thread(int, "7"))
        assert await task == 7
        with pytest.raises(TypeError):
            await aio.to_thread()
        with pytest.raises(TypeError):
            await aio.to_thread(func=int)

    run(main())


def test_nothing_runs_before_it_is_awaited(run, aio):
    async def main():
        called = threading.Event()
        coroutine = aio.to_thread(called.set)
        await aio.sleep(0.01)
        assert not called.is_set()
        coroutine.close()

    run(main())


def test_to_thread_needs_a_running_loop(aio):
    coroutine = aio.to_thread(int)
    with pytest.raises(RuntimeError, match="^no running event loop$"):
        coroutine.send(None)


def test_contexts(run, aio):
    variable = contextvars.ContextVar("variable", default="none")

    async def main():
        def change():
            before = variable.get()
            variable.set("changed")
            return before

        variable.set("mine")
        assert await aio.to_thread(change) == "mine"
        assert variable.get() == "mine"
        loop = aio.get_running_loop()
        assert await loop.run_in_executor(None, variable.get) == "none"
        # The context is copied at the first await.
        coroutine = aio.to_thread(variable.get)
        variable.set("later")
        assert await coroutine == "later"

    run(main())


class Mine(BaseException):
    pass


@pytest.mark.parametrize("kind", [ValueError, Mine, KeyboardInterrupt, SystemExit, TimeoutError, StopAsyncIteration])
def test_exceptions(run, aio, kind):
    async def main():
        def outer():
            inner()

        def inner():
            raise kind("text")

        loop = aio.get_running_loop()
        for make in (lambda: aio.to_thread(outer), lambda: loop.run_in_executor(None, outer)):
            with pytest.raises(kind) as caught:
                await make()
            assert caught.value.args == ("text",)
            names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            # Releases before 3.13 copy a TimeoutError without its traceback.
            if kind is not TimeoutError or sys.version_info >= (3, 13):
                assert names[0] == "main"
                assert names[-2:] == ["outer", "inner"]

    run(main())


@pytest.mark.parametrize("kind", [concurrent.futures.CancelledError, concurrent.futures.InvalidStateError])
def test_exceptions_of_concurrent_futures(run, aio, kind):
    async def main():
        def fail():
            raise kind("text")

        with pytest.raises(getattr(aio, kind.__name__)) as caught:
            await aio.to_thread(fail)
        assert caught.value.args in (("text",), ())  # a cancelled future creates its own error

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="it never ends in 3.11")
def test_stop_iteration(run, aio, problems):
    async def main():
        def fail():
            raise StopIteration("text")

        future = aio.get_running_loop().run_in_executor(None, fail)
        done, _ = await asyncio.wait([future], timeout=0.5)
        if done:
            with pytest.raises(RuntimeError, match="StopIteration interacts badly with generators"):
                await future
        else:  # early releases report this
            assert isinstance(problems[0]["exception"], TypeError)
            assert problems[0]["message"].startswith("Exception in callback")
            future.cancel()

    run(main())


def test_an_exception_nobody_took(run, aio, problems):
    async def main():
        def fail():
            raise ValueError("lost")

        future = aio.get_running_loop().run_in_executor(None, fail)
        await asyncio.wait([future])
        del future
        gc.collect()

    run(main())
    assert [problem["message"] for problem in problems] == ["Future exception was never retrieved"]


def test_cancelled_while_it_runs(run, aio):
    async def main():
        begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

        def work():
            begun.set()
            go_on.wait(10)
            ended.set()
            return "not seen"

        task = aio.create_task(aio.to_thread(work))
        while not begun.is_set():
            await aio.sleep(0.001)
        task.cancel("why")
        with pytest.raises(aio.CancelledError):
            await task
        assert not ended.is_set()
        go_on.set()
        assert await aio.to_thread(ended.wait, 10)

    run(main())


def test_cancelled_before_it_runs(run, aio):
    async def main():
        loop = aio.get_running_loop()
        go_on = threading.Event()
        called = []
        workers = [loop.run_in_executor(None, go_on.wait, 10) for _ in range(40)]  # more than the number of threads
        queued = loop.run_in_executor(None, called.append, 1)
        queued.cancel()
        await aio.sleep(0)
        await aio.sleep(0)
        go_on.set()
        await aio.gather(*workers)
        await aio.to_thread(int)
        assert queued.cancelled()
        assert called == []

    run(main())


def test_many_in_parallel(run, aio):
    async def main():
        barrier = threading.Barrier(4)  # passes only if all four run at the same time
        await aio.gather(*(aio.to_thread(barrier.wait, 10) for _ in range(4)))

    run(main())


def test_waiting_for_the_thread_in_the_same_step(run, aio):
    """Blocking the loop is bad style, but it must not deadlock."""

    async def main():
        loop = aio.get_running_loop()
        called = threading.Event()
        future = loop.run_in_executor(None, called.set)
        assert called.wait(10)
        await future
        called.clear()
        future = loop.run_in_executor(None, called.set)  # now there is an idle thread
        assert called.wait(10)
        await future

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_waiting_for_the_thread_of_an_eager_task(run, aio):
    async def main():
        loop = aio.get_running_loop()
        await aio.to_thread(int)
        loop.set_task_factory(aio.eager_task_factory)
        called = threading.Event()
        task = aio.create_task(aio.to_thread(called.set))
        assert called.wait(10)
        loop.set_task_factory(None)
        await task

    run(main())


def test_the_loop_goes_on_meanwhile(run, aio):
    async def main():
        await aio.to_thread(int)
        loop = aio.get_running_loop()
        turns, over = 0, threading.Event()

        def turn():
            nonlocal turns
            turns += 1
            if turns == 100:
                over.set()
            elif not over.is_set():
                loop.call_later(0, turn)  # the loop never waits

        turn()
        assert await aio.to_thread(over.wait, 10)

    run(main())


def test_results_come_in_the_turn_they_are_posted(run, aio):
    """The future is done one turn before the task that waits for it goes on."""

    async def main():
        loop = aio.get_running_loop()
        order = []

        async def wait():
            await future
            order.append("task")

        go_on = threading.Event()
        future = loop.run_in_executor(None, go_on.wait, 10)
        future.add_done_callback(lambda _: order.append("callback"))
        task = aio.create_task(wait())
        await aio.sleep(0)
        go_on.set()
        await task
        assert order == ["callback", "task"]

    run(main())


def test_the_default_executor(run, aio):
    async def main():
        loop = aio.get_running_loop()
        assert loop._default_executor is None
        await aio.to_thread(int)
        executor = loop._default_executor
        assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)
        assert executor.submit(divmod, 7, 2).result(10) == (3, 1)
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0).result(10)
        assert await loop.run_in_executor(executor, pow, 2, 3) == 8
        assert len(executor._threads) <= executor._max_workers
        assert {thread.name.partition("_")[0] for thread in executor._threads} == {"asyncio"}
        await loop.shutdown_default_executor()
        assert not any(thread.is_alive() for thread in executor._threads)
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            await aio.to_thread(int)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(int)

    run(main())


def test_one_thread_does_where_one_is_enough(run, aio):
    async def main():
        loop = aio.get_running_loop()
        for _ in range(20):
            await aio.to_thread(int)
            await aio.sleep(0.001)  # stock asyncio's thread may not be idle at once
        assert len(loop._default_executor._threads) == 1

    run(main())


def test_no_more_threads_than_the_maximum(run, aio):
    async def main():
        loop = aio.get_running_loop()
        go_on = threading.Event()
        waiting = [loop.run_in_executor(None, go_on.wait, 10) for _ in range(60)]
        executor = loop._default_executor
        assert len(executor._threads) == executor._max_workers
        go_on.set()
        assert await aio.gather(*waiting) == [True] * 60

    run(main())


def test_shutdown_that_cancels_what_is_queued(run, aio):
    async def main():
        loop = aio.get_running_loop()
        begun, go_on = [], threading.Event()

        def work():
            begun.append(True)
            return go_on.wait(10)

        await aio.to_thread(int)
        executor = loop._default_executor
        running = [loop.run_in_executor(None, work) for _ in range(executor._max_workers)]
        while len(begun) < len(running):
            await aio.sleep(0.001)
        queued = [loop.run_in_executor(None, int) for _ in range(3)]
        mine = executor.submit(int)
        executor.shutdown(wait=False, cancel_futures=True)
        go_on.set()
        await asyncio.wait([*running, *queued], timeout=10)
        assert [future.cancelled() for future in queued] == [True] * 3
        assert mine.cancelled()
        assert all(future.result() for future in running)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            await aio.to_thread(int)

    run(main())


def test_executors_of_the_programs_own(run, aio):
    async def main():
        loop = aio.get_running_loop()
        used = []

        class Own(concurrent.futures.ThreadPoolExecutor):
            def submit(self, fn, /, *args, **kwargs):
                used.append(fn)
                return super().submit(fn, *args, **kwargs)

        with Own(1, thread_name_prefix="own") as executor:
            assert (await loop.run_in_executor(executor, threading.current_thread)).name.startswith("own")
            loop.set_default_executor(executor)
            assert (await aio.to_thread(threading.current_thread)).name.startswith("own")
            assert (await loop.run_in_executor(None, threading.current_thread)).name.startswith("own")
            with pytest.raises(ZeroDivisionError):
                await aio.to_thread(divmod, 1, 0)
        assert len(used) == 4

    run(main())


def test_an_initializer_that_fails(run, aio, caplog):
    async def main():
        def fail():
            raise ValueError("initializer")

        loop = aio.get_running_loop()
        executor = concurrent.futures.ThreadPoolExecutor(1, initializer=fail)
        loop.set_default_executor(executor)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            await aio.to_thread(int)
        executor.shutdown()

    run(main())


def test_a_replaced_submit_is_called(run, aio, monkeypatch):
    """Tracers wrap it, to pass their context on."""

    async def main():
        called = []
        own = concurrent.futures.ThreadPoolExecutor.submit

        def submit(self, fn, /, *args, **kwargs):
            called.append(fn)
            return own(self, fn, *args, **kwargs)

        monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", submit)
        await aio.to_thread(int)
        await aio.get_running_loop().run_in_executor(None, int)
        assert len(called) == 2

    run(main())


def test_a_replaced_run_in_executor_is_called(run, aio):
    async def main():
        loop = aio.get_running_loop()
        called = []
        own = loop.run_in_executor

        def run_in_executor(executor, function, *args):
            called.append((executor, args))
            return own(executor, function, *args)

        loop.run_in_executor = run_in_executor
        try:
            assert await aio.to_thread(int, "12", base=8) == 10
        finally:
            del loop.run_in_executor
        assert called == [(None, ())]

    run(main())


def test_run_in_executor_refuses(run, aio, debug):
    async def main():
        loop = aio.get_running_loop()

        async def coroutine_function():
            pass

        if debug:
            with pytest.raises(TypeError, match="coroutines cannot be used with run_in_executor"):
                loop.run_in_executor(None, coroutine_function)
            with pytest.raises(TypeError, match="a callable object was expected by run_in_executor"):
                loop.run_in_executor(None, "text")
        else:
            with pytest.raises(TypeError, match="'str' object is not callable"):
                await loop.run_in_executor(None, "text")
        with pytest.raises(TypeError):
            loop.run_in_executor(None)
        assert await loop.run_in_executor(executor=None, func=int) == 0

    run(main())


def test_a_closed_loop(loop, aio):
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_in_executor(None, int)


def test_the_loop_is_closed_before_the_thread_ends(impl):
    """The thread's result is dropped silently."""
    loop = impl.new_event_loop()
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait(10)
        return "dropped"

    future = loop.run_in_executor(None, work)
    assert begun.wait(10)
    executor = loop._default_executor
    loop.close()
    go_on.set()
    executor.shutdown(wait=True)
    assert not future.done()


def test_the_loop_runs_only_later(loop, aio):
    future = loop.run_in_executor(None, int)
    threading.Event().wait(0.05)  # the thread ends while no loop runs
    assert not future.done()
    assert loop.run_until_complete(future) == 0
    loop.run_until_complete(loop.shutdown_default_executor())


def test_threads_submit_too(run, aio):
    async def main():
        loop = aio.get_running_loop()
        executor_made = await loop.run_in_executor(None, threading.get_ident)

        def from_a_thread():
            return loop._default_executor.submit(threading.get_ident).result(10)

        assert await aio.to_thread(from_a_thread) != threading.get_ident()
        assert executor_made

    run(main())


def test_nothing_is_kept(run, aio):
    async def main():
        class Thing:
            def method(self, other):
                return other

        thing, result = Thing(), Thing()
        references = [weakref.ref(thing), weakref.ref(result)]
        assert await aio.to_thread(thing.method, result) is result
        await aio.to_thread(int)
        del thing, result
        gc.collect()
        for _ in range(100):
            if not any(reference() for reference in references):
                break
            await aio.sleep(0.01)  # the thread may still hold references
        assert [reference() for reference in references] == [None, None]

    run(main())


def test_a_lost_executor_ends_its_threads(run, aio):
    async def main():
        loop = aio.get_running_loop()
        await aio.to_thread(int)
        threads = list(loop._default_executor._threads)
        loop._default_executor = None
        gc.collect()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        await aio.to_thread(int)

    run(main())


def test_a_queue_in_a_cycle_is_collected():
    rondel = pytest.importorskip("rondel")
    queue = rondel._rondel.WorkQueue()
    thing = type("Thing", (), {})()
    thing.queue = queue
    queue.put(thing)
    reference = weakref.ref(thing)
    del thing, queue
    gc.collect()
    assert reference() is None


@pytest.fixture
def overtaken():
    """Put an item into a queue on which a thread waits, and hold the GIL meanwhile."""

    def overtaken(queue, item, look):
        taken = []
        thread = threading.Thread(target=lambda: taken.append(queue.get()))
        thread.start()
        time.sleep(0.05)  # the thread probably waits then; if not, the test proves less
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1000)  # this thread keeps the GIL until it blocks
        try:
            queue.put(item)
            end = time.monotonic() + 0.05
            while time.monotonic() < end:
                pass  # the other thread is awake by now, and waits for the GIL
            seen = look()
        finally:
            sys.setswitchinterval(interval)
        thread.join(10)
        return seen, taken

    return overtaken


def test_a_thread_takes_what_is_queued_only_with_the_interpreter(overtaken):
    """The collector holds the GIL.

    An item that left the queue during a collection would seem unreachable.
    """
    rondel = pytest.importorskip("rondel")
    queue, thing = rondel._rondel.WorkQueue(), object()
    shown, taken = overtaken(queue, thing, lambda: gc.get_referents(queue))
    assert thing in shown
    assert taken == [thing]
    assert thing not in gc.get_referents(queue)


def test_what_a_thread_is_about_to_take(overtaken):
    """`shutdown(cancel_futures=True)` gets it first, as from a `SimpleQueue`.

    From 3.13 on the thread does.
    """
    rondel = pytest.importorskip("rondel")
    work = rondel._rondel.WorkQueue()

    def take():
        try:
            first = work.get_nowait()
        except queue.Empty:
            first = None
        work.put("second")
        return first

    seen, taken = overtaken(work, "first", take)
    is_promised = sys.version_info >= (3, 13)
    assert (seen, taken) == ((None, ["first"]) if is_promised else ("first", ["second"]))
    assert work.empty() is not is_promised


@pytest.mark.one_mode
def test_collections_while_threads_take_their_calls(run, aio):
    class Thing:
        def method(self):
            return self

        def __del__(self):
            ended.append(self.number)

    ended = []
    ballast = [[number] for number in range(50_000)]  # makes a collection slow enough to be overtaken

    async def main():
        loop = aio.get_running_loop()
        for number in range(30):
            thing = Thing()
            thing.number = number
            future = loop.run_in_executor(None, thing.method)
            del thing
            gc.collect()
            thing = await aio.wait_for(future, 30)
            assert thing.number == number
            assert number not in ended
        del thing

    run(main())
    assert len(ballast) == 50_000


def test_the_queue():
    import queue as queues

    rondel = pytest.importorskip("rondel")
    queue = rondel._rondel.WorkQueue()
    assert queue.empty()
    queue.put(1)
    queue.put(2)
    assert (queue.qsize(), queue.get(), queue.get(block=True), queue.qsize()) == (2, 1, 2, 0)
    with pytest.raises(queues.Empty):
        queue.get_nowait()
    with pytest.raises(queues.Empty):
        queue.get(block=False)
    taken = []
    thread = threading.Thread(target=lambda: taken.append(queue.get()))
    thread.start()
    queue.put("last")
    thread.join(10)
    assert taken == ["last"]


PROGRAMS = {
    # The interpreter waits for threads that it has not stopped itself.
    "exit": """
        async def main():
            await MODULE.to_thread(int)
            MODULE.get_running_loop().run_in_executor(None, lambda: (time.sleep(0.1), print("ended")))
        loop = NEW_LOOP()
        loop.run_until_complete(main())
        print("left")
    """,
    # A child has no threads, and starts its own.
    "fork": """
        async def main():
            await MODULE.gather(*(MODULE.to_thread(time.sleep, 0.01) for _ in range(3)))
            pid = os.fork()
            if pid:
                await MODULE.to_thread(int)
                print("child", os.waitpid(pid, 0)[1])
            else:
                MODULE._set_running_loop(None)
                async def child():
                    await MODULE.to_thread(int)
                loop = NEW_LOOP()
                loop.run_until_complete(child())
                loop.run_until_complete(loop.shutdown_default_executor())
                os._exit(7)
        loop = NEW_LOOP()
        loop.run_until_complete(main())
    """,
}
OUTPUT = {"exit": "left\nended\n", "fork": "child 1792\n"}


@pytest.mark.parametrize("which", PROGRAMS)
def test_processes(impl, which):
    new_loop = {"asyncio": "asyncio.SelectorEventLoop"}.get(impl.name, "rondel.new_event_loop")
    imports = "import asyncio, os, time" + (", rondel" if impl.is_rondel else "")
    program = textwrap.dedent(PROGRAMS[which]).replace("NEW_LOOP", new_loop)
    program = f"{imports}\n{program.replace('MODULE', impl.module.__name__)}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (OUTPUT[which], "", 0)
