"""Real programs on Rondel: each test starts a program on 127.0.0.1 and uses it.

Clients run in the test's own process, by the fixture `run`, in these ways:

* `asyncio`: on stock asyncio; what fails here is not Rondel's fault;
* `factory`: `asyncio.Runner(loop_factory=rondel.new_event_loop)`;
* `installed`: `asyncio.Runner()` after `rondel.install()`, which must come before the libraries are
  imported. So this way is used under `python -m rondel -m pytest tests/ecosystem`, and only by tests
  that use `run`.

Servers written in Python are started by the command lines of the documentation. PostgreSQL, Redis
and nginx come from Debian (`make ecosystem-setup`). Tests of missing programs are skipped, with the
reason.
"""

import asyncio
import os
import ssl
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import rondel
import trustme
from processes import Programs, free_port
from servers import Nginx, NotHere, PostgreSQL, Redis

INSTALLED = asyncio.run is rondel.run


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", ["installed"] if INSTALLED else ["asyncio", "factory"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if INSTALLED:
        here = [item for item in items if "way" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in here])
        items[:] = here


async def _with_handlers(main: Coroutine[Any, Any, Any]) -> Any:
    """Wait for handlers.

    Up to 3.11 closing a server does not, and asyncio reports those it cancels.
    """
    result = await main
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left, timeout=5)
    return result


@pytest.fixture
def run(way: str) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """A function that runs a coroutine like a program, and checks the loop."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        factory = {"asyncio": asyncio.SelectorEventLoop, "factory": rondel.new_event_loop, "installed": None}[way]
        problems: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=factory) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, rondel.EventLoop) == (way != "asyncio")
            loop.set_exception_handler(lambda _loop, context: problems.append(context))
            result = runner.run(main if sys.version_info >= (3, 12) else _with_handlers(main))
        assert not problems, f"the exception handler was called: {problems}"
        return result

    return run


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Starts programs, shows their output if the test fails, and ends them."""
    with Programs(tmp_path) as started:
        yield started


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


class Certificate:
    """A certificate for localhost and 127.0.0.1: files for servers, an SSL context for clients."""

    def __init__(self, authority: trustme.CA, folder: Path) -> None:
        issued = authority.issue_cert("localhost", "127.0.0.1")
        self.key, self.chain, self.root = folder / "key.pem", folder / "chain.pem", folder / "root.pem"
        issued.private_key_pem.write_to_path(self.key)
        issued.cert_chain_pems[0].write_to_path(self.chain)
        authority.cert_pem.write_to_path(self.root)
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issued.configure_cert(self.server)
        self.client = ssl.create_default_context(cafile=self.root)


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(authority, tmp_path_factory.mktemp("certificate"))


def serving(kind: Any, *arguments: Path) -> Iterator[Any]:
    """Make a fixture for a server of the whole session.

    It skips tests if the server is not installed.
    """
    try:
        kind.programs()
    except NotHere as error:
        pytest.skip(str(error))
    with kind(*arguments) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    yield from serving(PostgreSQL)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    yield from serving(Redis)


@pytest.fixture(scope="session")
def nginx(certificate: Certificate) -> Iterator[Nginx]:
    yield from serving(Nginx, certificate.chain, certificate.key)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove proxies from the environment: all tests connect to 127.0.0.1."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
