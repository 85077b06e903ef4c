"""One test body, several implementations: stock asyncio is the oracle, Rondel has to do the same.

A test takes the fixture `aio`, the module under test under asyncio's name, and `run` or `loop`:

* `asyncio`: stock asyncio, its own loop;
* `rondel`: the module `rondel` itself, as with `import rondel as asyncio`;
* `factory`: asyncio's functions on Rondel's loop, as with `asyncio.run(main(), loop_factory=rondel.new_event_loop)`.

Tests that take `run` or `loop` run in debug mode as well. `--impl asyncio,rondel,factory` chooses; all is the default.
Each test is charged with the descriptors it leaves open, and with what reaches the loop's exception handler without
the test asking for it (the fixture `problems`).
"""

import asyncio
import functools
import gc
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from types import ModuleType
from typing import Any

import pytest


class Implementation:
    """Where a test gets its loop from, and the module it uses under the name asyncio."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_rondel = name != "asyncio"
        if self.is_rondel:
            import rondel

            self.new_event_loop: Callable[[], asyncio.AbstractEventLoop] = rondel.new_event_loop
        else:
            self.new_event_loop = asyncio.SelectorEventLoop
        self.module: ModuleType = rondel if name == "rondel" else asyncio


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--impl", default="asyncio,rondel,factory", help="which implementations to test, with commas")
    parser.addoption("--panic-probe", help="the folder of a build with the feature panic-probe, for test_panics.py")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background jobs ignore SIGINT, what nohup starts SIGHUP, and so would every program that is started here.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line("markers", "one_mode: not run in debug mode as well (it is long, or sets the mode itself)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = metafunc.config.getoption("--impl").split(",")
    if "impl" in metafunc.fixturenames:
        metafunc.parametrize("impl", chosen, indirect=True, scope="function")
    if "debug" in metafunc.fixturenames:
        one_mode = any(mark.name == "one_mode" for mark in metafunc.definition.iter_markers())
        modes = [False] if one_mode else [False, True]
        metafunc.parametrize("debug", modes, ids=lambda mode: "debug" if mode else "plain", scope="function")


@pytest.fixture
def impl(request: pytest.FixtureRequest) -> Implementation:
    return Implementation(request.param)


@pytest.fixture
def aio(impl: Implementation) -> ModuleType:
    return impl.module


def open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # the one that listdir itself had open
    return found


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    # Only a suspect is worth a collection: it takes longer than most tests.
    if set(open_descriptors()) - set(before):
        gc.collect()
        left = {fd: what for fd, what in open_descriptors().items() if fd not in before}
        assert not left, f"descriptors left open: {left}"


@functools.cache
def _let_hypothesis_begin() -> None:
    """When it first runs, it asks the collector for referrers of an object, which does not tell of those that are frozen."""
    from hypothesis import given, settings, strategies

    settings(max_examples=1, database=None)(given(strategies.none())(lambda _: None))()


@pytest.fixture(autouse=True, scope="module")
def _collections_are_small() -> None:
    """What pytest and earlier modules keep is no part of later collections: each would take longer than most tests."""
    if "hypothesis" in sys.modules:
        _let_hypothesis_begin()
    gc.collect()
    gc.freeze()


@pytest.fixture
def problems() -> list[dict[str, Any]]:
    """The contexts with which the loop's exception handler was called."""
    return []


def _check(problems: list[dict[str, Any]], request: pytest.FixtureRequest) -> None:
    asked = "problems" in request.node._fixtureinfo.argnames
    assert asked or not problems, f"the exception handler was called: {problems}"


@pytest.fixture
def loop(
    impl: Implementation, debug: bool, problems: list[dict[str, Any]], request: pytest.FixtureRequest
) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that does not run, for tests that drive it by hand."""
    loop = impl.new_event_loop()
    loop.set_debug(debug)
    loop.slow_callback_duration = 60  # type: ignore[attr-defined]  # no log lines for a slow machine
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    yield loop
    loop.close()
    _check(problems, request)


@pytest.fixture
def run(
    impl: Implementation, debug: bool, problems: list[dict[str, Any]], request: pytest.FixtureRequest
) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs a coroutine to its end in a loop of its own, as asyncio.run() does."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        runner = impl.module.Runner(debug=debug, loop_factory=impl.new_event_loop)
        with runner:
            loop = runner.get_loop()
            loop.slow_callback_duration = 60
            loop.set_exception_handler(lambda _loop, context: problems.append(context))
            return runner.run(and_those_it_left(main))

    async def and_those_it_left(main: Coroutine[Any, Any, Any]) -> Any:
        # A server's handler may see the end of its connection a little after the client that closed it: without this
        # it would be cancelled or not, as the turns fall.
        try:
            return await main
        finally:
            if left := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(left, timeout=0.5)

    yield run
    gc.collect(1)
    _check(problems, request)


@pytest.fixture
def free_port() -> int:
    """A port below those that the kernel gives to clients: one of theirs could be taken again before the test binds it."""
    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")
