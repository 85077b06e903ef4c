"""Tests under system calls that fail: they run in a process with `faults.c` preloaded, which `tests/test_faults.py` starts."""

from collections.abc import Iterator

import pytest
from faulty import Faults


@pytest.fixture
def faults() -> Iterator[Faults]:
    faults = Faults()
    yield faults
    assert faults.clear() == 0, "what nobody has met shows nothing"
