"""The event loops that programs use, and a check that Rust drops everything."""

import asyncio
import gc
import importlib.util
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

rust = pytest.importorskip("rondel_pyo3_testing", reason="make test-extension builds it")


def factories() -> Iterator[Any]:
    yield pytest.param(asyncio.SelectorEventLoop, id="asyncio")
    if importlib.util.find_spec("rondel"):
        import rondel

        yield pytest.param(rondel.new_event_loop, id="rondel")
    if importlib.util.find_spec("uvloop"):
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.sleep(0))  # opens what uvloop keeps open
        yield pytest.param(uvloop.new_event_loop, id="uvloop")


@pytest.fixture(params=factories())
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main)

    return run


@pytest.fixture(autouse=True)
def everything_is_dropped() -> Iterator[None]:
    yield
    gc.collect()
    assert rust.alive() == 0
