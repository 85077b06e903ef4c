"""Tests under failing system calls.

`test_faults.py` starts them in a process with `faults.c` preloaded.
"""

from collections.abc import Iterator

import pytest
from faulty import Faults


@pytest.fixture
def faults() -> Iterator[Faults]:
    faults = Faults()
    yield faults
    assert faults.clear() == 0, "what nobody has met shows nothing"
