"""Methods of Rust's classes that are coroutines."""

import asyncio
import gc
import inspect

import pytest

rust = pytest.importorskip("rondel_pyo3_testing", reason="make test-extension builds it")


def test_a_method_runs_on_its_object(run) -> None:
    async def main() -> None:
        counter = rust.Counter()
        assert await counter.add(2) == 2
        assert await asyncio.gather(*(counter.add(1, steps=10) for _ in range(10))) == list(range(93, 103))
        assert counter.count == 102
        assert await counter.itself() is counter

    run(main())


def test_its_arguments_are_those_of_its_signature(run) -> None:
    async def main() -> None:
        counter = rust.Counter()
        assert str(inspect.signature(counter.add)) == "(amount, *, steps=1)"
        assert rust.Counter.add.__doc__ == "Adds to it, in so many steps."
        assert await counter.add(amount=1) == 1
        for wrong in (lambda: counter.add(), lambda: counter.add(1, 2), lambda: counter.add("x")):
            with pytest.raises(TypeError):
                wrong()

    run(main())


def test_class_and_static_methods(run) -> None:
    async def main() -> None:
        assert await rust.Counter.name_of(after="!") == "Counter!"
        assert await rust.Counter().name_of("?") == "Counter?"
        assert await rust.Counter.double(21) == 42

    run(main())


def test_a_class_with_mutable_state(run) -> None:
    async def main() -> None:
        changing = rust.Changing(1)
        assert await changing.swap(2) == 1
        assert sorted(await asyncio.gather(changing.swap(3), changing.swap(4))) == [2, 3]

    run(main())


def test_the_coroutine_keeps_its_object(run) -> None:
    async def main() -> None:
        coroutine = rust.Counter().add(1)
        gc.collect()
        assert rust.alive() == 1
        assert await coroutine == 1
        assert rust.alive() == 0

    run(main())


def test_async_with(run) -> None:
    async def main() -> None:
        async with rust.Counter() as counter:
            assert await counter.add(3) == 3
        assert counter.count == 0

    run(main())


def test_it_has_its_names() -> None:
    coroutine = rust.Counter().add(1)
    assert coroutine.__name__ == "add"
    assert coroutine.__qualname__ == "Counter.add"
    assert "Counter.add" in repr(coroutine)
    with pytest.warns(RuntimeWarning, match="coroutine 'Counter.add' was never awaited"):
        del coroutine
