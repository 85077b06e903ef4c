"""The loop and the context of Rust's futures, in tasks of Rust's and in other threads."""

import asyncio
import contextvars
import threading

import pytest

rust = pytest.importorskip("rondel_pyo3_testing", reason="make test-extension builds it")

variable = contextvars.ContextVar("variable", default="outside")


def test_a_task_of_rust_has_a_copy_of_the_context(run) -> None:
    async def main() -> None:
        variable.set("inside")
        first = rust.variable_as_future(variable)
        variable.set("changed")
        second = rust.variable_as_future(variable)
        assert await first == ("inside", "set within")
        assert await second == ("changed", "set within")
        assert variable.get() == "changed"

    run(main())


def test_what_a_task_of_rust_awaits_has_it_as_well(run) -> None:
    async def reads() -> tuple[str, bool]:
        await asyncio.sleep(0)
        return variable.get(), asyncio.current_task() is not None

    async def main() -> None:
        variable.set("inside")
        future = rust.call_as_future(reads)
        variable.set("changed")
        assert await future == ("inside", True)

    run(main())


def test_a_thread_awaits_on_the_loop_it_was_told(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        thread = threading.get_ident()
        variable.set("inside")

        async def looks() -> str:
            assert asyncio.get_running_loop() is loop
            assert threading.get_ident() == thread
            await asyncio.sleep(0.001)
            return variable.get()

        async def fails() -> None:
            raise KeyError("no")

        assert await rust.awaited_from_a_thread(looks) == "inside"
        with pytest.raises(KeyError, match="no"):
            await rust.awaited_from_a_thread(fails)
        with pytest.raises(TypeError):
            await rust.awaited_from_a_thread(int)

    run(main())


def test_what_a_thread_drops_is_cancelled(run) -> None:
    async def main() -> None:
        cancelled = asyncio.Event()

        async def waits() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        await rust.dropped_in_a_thread(waits)
        await asyncio.wait_for(cancelled.wait(), 5)

    run(main())


def test_a_future_runs_on_a_loop_of_another_thread(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = asyncio.Event()
        box = []

        def starts() -> None:
            box.append(rust.loop_of(loop))
            loop.call_soon_threadsafe(made.set)

        await asyncio.to_thread(starts)
        await made.wait()
        assert await box[0] is loop
        assert await rust.loop_of(loop) is loop

    run(main())


def test_rust_runs_a_loop() -> None:
    async def gives() -> int:
        await asyncio.sleep(0.001)
        return 7

    async def fails() -> None:
        raise KeyError("no")

    loop = asyncio.new_event_loop()
    assert rust.run_until_slept(loop) == "slept"
    loop.close()
    assert rust.run_awaiting(gives) == 7
    with pytest.raises(KeyError, match="no"):
        rust.run_awaiting(fails)
