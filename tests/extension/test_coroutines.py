"""Rust futures that Python awaits, on each event loop that programs use."""

import asyncio
import contextvars
import gc
import os
import threading
import warnings

import pytest

rust = pytest.importorskip("rondel_pyo3_testing", reason="make test-extension builds it")


def test_a_future_that_is_ready_gives_its_value(run) -> None:
    async def main() -> None:
        for value in (None, 1, "text", (1, 2), StopIteration("x"), ValueError):
            assert await rust.ready(value) is value
        assert await rust.nothing() is None

    run(main())


def test_it_may_wait_and_go_on(run) -> None:
    async def main() -> None:
        assert await rust.give_way(100) == 100
        assert await rust.sleep(0.01, "done") == "done"

    run(main())


def test_time_is_slept_and_others_run_meanwhile(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        results = await asyncio.gather(*(rust.sleep(0.05, n) for n in range(100)))
        assert results == list(range(100))
        assert 0.04 < loop.time() - begin < 2

    run(main())


def test_asyncio_takes_it_for_a_coroutine(run) -> None:
    async def main() -> None:
        coroutine = rust.ready(1)
        assert asyncio.iscoroutine(coroutine)
        task = asyncio.create_task(coroutine, name="mine")
        assert "ready" in repr(task)
        assert await task == 1
        assert await asyncio.wait_for(rust.sleep(0, 2), 1) == 2
        assert await asyncio.shield(rust.ready(3)) == 3
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(rust.give_way(n)) for n in range(10)]
        assert [task.result() for task in tasks] == list(range(10))

    run(main())


def test_what_it_raises_is_raised(run) -> None:
    async def main() -> None:
        with pytest.raises(KeyError, match="spam"):
            await rust.fail("spam")

    run(main())


def test_a_panic_is_an_exception_and_the_loop_goes_on(run) -> None:
    async def main() -> None:
        try:
            await rust.crash()
        except BaseException as error:  # PyO3's PanicException is no Exception
            assert "out of cheese" in str(error)  # noqa: PT017
        else:
            pytest.fail("no exception")
        assert await rust.give_way() == 1
        try:
            await rust.crash_as_future()
        except BaseException as error:
            assert "out of cheese" in str(error)  # noqa: PT017
        else:
            pytest.fail("no exception")
        assert rust.alive() == 0

    run(main())


def test_a_cancelled_task_drops_the_future_before_it_sees_the_cancellation(run) -> None:
    async def main() -> None:
        seen = []

        async def waits() -> None:
            try:
                await rust.never()
            except asyncio.CancelledError:
                seen.append(rust.alive())
                raise

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        assert rust.alive() == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == [0]

    run(main())


def test_a_timeout_drops_the_future(run) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(rust.never(), 0.01)
        assert rust.alive() == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await rust.sleep(60, None)
        assert rust.alive() == 0

    run(main())


def test_one_that_was_never_awaited_is_warned_of() -> None:
    with pytest.warns(RuntimeWarning, match="coroutine 'ready' was never awaited"):
        rust.ready(1)


def test_one_is_awaited_once(run) -> None:
    async def main() -> None:
        coroutine = rust.ready(1)
        assert await coroutine == 1
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await coroutine
        coroutine = rust.never()
        coroutine.close()
        with pytest.raises(RuntimeError):
            await coroutine

    run(main())


def test_without_a_loop_it_says_so() -> None:
    coroutine = rust.give_way()
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)


def test_it_runs_in_the_step_of_the_task_that_awaits_it(run) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert await rust.current_task() == (task, task)

    run(main())


def test_context_variables_are_those_of_the_task(run) -> None:
    variable = contextvars.ContextVar("variable", default="outside")

    async def reads() -> str:
        return variable.get()

    async def main() -> None:
        variable.set("inside")
        assert await rust.awaited(reads()) == "inside"

    run(main())


def test_tasks_of_rust_run_beside_it(run) -> None:
    async def main() -> None:
        assert await rust.count_in_tasks(1000) == 1000

    run(main())


def test_threads_wake_it(run) -> None:
    async def main() -> None:
        assert await rust.woken_by_threads(200) == 200
        assert await asyncio.gather(*(rust.woken_by_threads(20) for _ in range(20))) == [20] * 20
        assert await asyncio.gather(*(rust.add_in_thread(n, 1) for n in range(100))) == list(range(1, 101))

    run(main())


async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


def test_sockets_of_rust_work_beside_those_of_python(run) -> None:
    async def main() -> None:
        server = await asyncio.start_server(upper, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        lines = [f"line {n}".encode() for n in range(200)]
        answers = await asyncio.gather(*(rust.request("127.0.0.1", port, line) for line in lines))
        assert answers == [line.upper() + b"\n" for line in lines]
        with pytest.raises(ConnectionRefusedError):
            await rust.request("127.0.0.1", 1, b"")
        server.close()
        await server.wait_closed()

    run(main())


def test_a_future_of_the_loop_stands_for_one_of_rust(run) -> None:
    async def main() -> None:
        future = rust.sleep_as_future(0.01)
        assert asyncio.isfuture(future)
        assert await future == "slept"
        with pytest.raises(KeyError, match="missing"):
            await rust.fail_as_future()
        future = rust.sleep_as_future(60)
        await asyncio.sleep(0.01)
        assert rust.alive() == 1
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        await asyncio.sleep(0.01)
        assert rust.alive() == 0

    run(main())


def test_the_end_of_a_loop_drops_what_is_pending(run) -> None:
    async def main() -> None:
        rust.sleep_as_future(60)
        asyncio.ensure_future(rust.never())
        await asyncio.sleep(0.01)
        assert rust.alive() == 2

    run(main())
    gc.collect()
    assert rust.alive() == 0


def test_many_loops_one_after_the_other(run) -> None:
    async def main() -> None:
        assert await rust.sleep(0, 1) == 1
        assert await rust.woken_by_threads(1) == 1

    for _ in range(50):
        run(main())


def test_a_loop_in_each_thread(run) -> None:
    results = []

    async def main() -> None:
        results.append(await asyncio.gather(*(rust.sleep(0.01, n) for n in range(20)), rust.woken_by_threads(5)))

    threads = [threading.Thread(target=lambda: run(main())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[*range(20), 5]] * 8


def test_the_child_of_a_fork_has_a_guest_of_its_own(run) -> None:
    async def child() -> None:
        assert await rust.sleep(0.01, 1) == 1
        assert await rust.add_in_thread(1, 2) == 3

    async def main() -> None:
        server = await asyncio.start_server(upper, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sleeping = asyncio.create_task(rust.sleep(0.2, "slept"))
        assert await rust.request("127.0.0.1", port, b"before") == b"BEFORE\n"
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio._set_running_loop(None)
                run(child())
                status = 0
            finally:
                os._exit(status)
        assert await rust.request("127.0.0.1", port, b"after") == b"AFTER\n"
        assert await sleeping == "slept"
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            await asyncio.sleep(0.01)
        assert os.waitstatus_to_exitcode(ended[1]) == 0
        server.close()
        await server.wait_closed()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a process with threads forks
        run(main())


def test_another_thread_may_drop_but_not_run_it(run) -> None:
    async def main() -> None:
        box = [rust.never()]
        box[0].send(None)
        errors = []

        def uses() -> None:
            try:
                box[0].send(None)
            except RuntimeError as error:
                errors.append(str(error))

        await asyncio.to_thread(uses)
        assert "another thread" in errors[0]
        await asyncio.to_thread(box.clear)
        for _ in range(100):
            await asyncio.sleep(0.01)
            if rust.alive() == 0:
                break
        assert rust.alive() == 0

    run(main())
