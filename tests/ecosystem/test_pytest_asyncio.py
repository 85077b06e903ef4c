"""pytest-asyncio: the hook for loop factories, the older fixture, and the command."""

import pytest
from processes import PYTHON, RONDEL

TESTS = """\
import asyncio
import pytest
import pytest_asyncio
import rondel

@pytest_asyncio.fixture(loop_scope="module")
async def resource():
    await asyncio.sleep(0)
    yield asyncio.get_running_loop()
    await asyncio.sleep(0)

@pytest.mark.asyncio(loop_scope="module")
async def test_it_runs_on_rondel(resource):
    assert isinstance(asyncio.get_running_loop(), rondel.EventLoop)
    assert resource is asyncio.get_running_loop()

@pytest.mark.asyncio
async def test_a_loop_of_its_own():
    assert isinstance(asyncio.get_running_loop(), rondel.EventLoop)
"""

POLICY = """\
import pytest
import rondel

@pytest.fixture(scope="session")
def event_loop_policy():
    return rondel.EventLoopPolicy()
"""

FACTORIES = """\
import rondel

def pytest_asyncio_loop_factories():
    return {"rondel": rondel.new_event_loop}
"""

INSTALL = """\
import rondel

rondel.install()
"""


@pytest.mark.parametrize("conftest", [POLICY, INSTALL], ids=["policy", "install"])
def test_by_the_conftest(programs, tmp_path, conftest):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_it.py").write_text(TESTS)
    program = programs.start(*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder=folder)
    assert program.wait() == 0, program.output
    assert "2 passed" in program.output


def test_by_the_command(programs, tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    program = programs.start(*RONDEL, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py", folder=tmp_path)
    assert program.wait() == 0, program.output
    assert "2 passed" in program.output
