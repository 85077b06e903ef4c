"""docs/frameworks.md.

Its command lines work, and its Python code is that of the tested programs.
"""

import itertools
import re
import shlex
import sys
from pathlib import Path

import httpx
import pytest
from processes import APPS, HERE
from use_asgi import RONDELS

PAGE = HERE.parents[1] / "docs" / "frameworks.md"
#: The options for a server's address.
LISTEN = {
    "uvicorn": ["--port", "{port}"],
    "hypercorn": ["--bind", "127.0.0.1:{port}"],
    "gunicorn": ["--bind", "127.0.0.1:{port}"],
    "aiohttp.web": ["-H", "127.0.0.1", "-P", "{port}"],
}
#: Lines that other tests run, because they need several processes or a terminal.
ELSEWHERE = {
    "distributed.cli.dask_scheduler": "test_dask.py",
    "distributed.cli.dask_worker": "test_dask.py",
    "pytest": "test_pytest_asyncio.py",
    "IPython": "test_jupyter.py",
}


def blocks(language):
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_a_command(programs, port, line):
    command = shlex.split(line)
    modules = [word for before, word in itertools.pairwise(command) if before == "-m" and word != "rondel"]
    name = modules[0] if modules else command[0]
    if name in ELSEWHERE:
        text = (HERE / ELSEWHERE[name]).read_text()
        assert f'"{name}"' in text
        assert all(f'"{option}"' in text for option in command if option.startswith("--"))
        return
    # The environment's own programs, whether or not it is activated.
    command[0] = str(Path(sys.executable).with_name(command[0]))
    server = programs.serve(port, *command, *(word.format(port=port) for word in LISTEN[name]))
    assert httpx.get(f"http://127.0.0.1:{port}/where", timeout=20).json()["loop"] == RONDELS
    server.stop()


@pytest.mark.parametrize("block", blocks("python"))
def test_a_block_of_python(block):
    sources = [*APPS.glob("*.py"), *HERE.glob("test_*.py")]
    wanted = [line.strip() for line in block.splitlines() if line.strip()]

    def has(path):
        lines = [re.sub(r"  # noqa.*", "", line).strip() for line in path.read_text().splitlines()]
        return all(line in lines for line in wanted)

    assert any(has(path) for path in sources if path.name != Path(__file__).name), block
