"""Runs each test on several implementations: stock asyncio is the oracle, Rondel must do the same.

A test uses the fixture `aio`, which is the module under test, and `run` or `loop`. The
implementations are:

* `asyncio`: stock asyncio with its own loop;
* `rondel`: the module `rondel`, as with `import rondel as asyncio`;
* `factory`: asyncio's functions on Rondel's loop, as with
  `asyncio.run(main(), loop_factory=rondel.new_event_loop)`.

Tests that use `run` or `loop` run in debug mode as well. `--impl asyncio,rondel` chooses
implementations; the default is all. A test fails if it leaves descriptors open. It also fails if
the loop's exception handler is called, unless the test uses the fixture `problems`.
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
    """What a test runs on: the module, and the function that creates loops."""

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
    parser.addoption(
        "--rust-trace", help="the program built from crates/rondel/examples/trace.rs, for test_rust_traces.py"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background jobs ignore SIGINT, and programs started by nohup ignore SIGHUP. Child
    # processes of the tests would inherit that.
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
            pass  # the descriptor of listdir itself
    return found


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    # A collection takes longer than most tests, so it runs only if something seems to be open.
    if set(open_descriptors()) - set(before):
        gc.collect()
        left = {fd: what for fd, what in open_descriptors().items() if fd not in before}
        assert not left, f"descriptors left open: {left}"


@functools.cache
def _let_hypothesis_begin() -> None:
    """Run hypothesis once.

    On its first run it calls `gc.get_referrers`, which omits frozen objects.
    """
    from hypothesis import given, settings, strategies

    settings(max_examples=1, database=None)(given(strategies.none())(lambda _: None))()


@pytest.fixture(autouse=True, scope="module")
def _collections_are_small() -> None:
    """Freeze the objects of pytest and of earlier modules, so that collections stay fast."""
    if "hypothesis" in sys.modules:
        _let_hypothesis_begin()
    gc.collect()
    gc.freeze()


@pytest.fixture
def problems() -> list[dict[str, Any]]:
    """The contexts that the loop's exception handler was called with."""
    return []


def _check(problems: list[dict[str, Any]], request: pytest.FixtureRequest) -> None:
    asked = "problems" in request.node._fixtureinfo.argnames
    assert asked or not problems, f"the exception handler was called: {problems}"


@pytest.fixture
def loop(
    impl: Implementation, debug: bool, problems: list[dict[str, Any]], request: pytest.FixtureRequest
) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that is not running, for tests that drive it."""
    loop = impl.new_event_loop()
    loop.set_debug(debug)
    loop.slow_callback_duration = 60  # type: ignore[attr-defined]  # no log messages on a slow machine
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    yield loop
    loop.close()
    _check(problems, request)


@pytest.fixture
def run(
    impl: Implementation, debug: bool, problems: list[dict[str, Any]], request: pytest.FixtureRequest
) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """A function that runs a coroutine to completion in a new loop, like asyncio.run()."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        runner = impl.module.Runner(debug=debug, loop_factory=impl.new_event_loop)
        with runner:
            loop = runner.get_loop()
            loop.slow_callback_duration = 60
            loop.set_exception_handler(lambda _loop, context: problems.append(context))
            return runner.run(and_those_it_left(main))

    async def and_those_it_left(main: Coroutine[Any, Any, Any]) -> Any:
        # A server's handler may see the end of its connection later than the client that closed it.
        # Without this wait it would be cancelled at random.
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
    """A free port below the kernel's range for clients: no client can take it."""
    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")
