"""Random programs leave the same trace on stock asyncio and on Rondel, event by event.

`RONDEL_EXAMPLES=20000 pytest tests/differential/test_programs.py` runs that many new programs for
each kind of clock.
"""

import asyncio
import gc

import pytest
from clocks import CLOCKS, Clock
from hypothesis import given, note
from interpreter import Interpreter
from profiles import EXAMPLES
from programs import programs


@pytest.fixture(autouse=True, scope="module")
def _small_collections():
    """Each program ends with a collection, which must not traverse earlier programs' objects."""
    automatic = gc.isenabled()
    gc.disable()
    yield
    if automatic:
        gc.enable()
    gc.unfreeze()


def trace(aio, program, clock, on_rondel):
    gc.freeze()
    return Interpreter(aio, Clock(clock, on_rondel), program).run()


def first_difference(ours, expected):
    for number, (one, other) in enumerate(zip(ours, expected, strict=False)):
        if one != other:
            before = "".join(f"    {each}\n" for each in expected[max(0, number - 12) : number])
            return f"after\n{before}ours:    {one}\nasyncio: {other}"
    return f"ours has {len(ours)} events, asyncio {len(expected)}"


@pytest.mark.timeout(0 if EXAMPLES else 300)
@pytest.mark.parametrize("clock", CLOCKS)
@given(program=programs)
def test_traces_are_alike(pytestconfig, clock, program):
    expected = trace(asyncio, program, clock, on_rondel=False)
    for name in pytestconfig.getoption("--impl").split(","):
        if name == "asyncio":
            continue
        aio = asyncio if name == "factory" else __import__("rondel")
        ours = trace(aio, program, clock, on_rondel=True)
        if ours != expected:
            note(f"as {name}: {first_difference(ours, expected)}")
            raise AssertionError(f"another trace than asyncio's, as {name}")
