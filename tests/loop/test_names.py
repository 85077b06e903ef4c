"""`getaddrinfo` and `getnameinfo`: the `socket` module's answers, with and without a thread."""

import asyncio
import itertools
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, Any]], Any]

HOSTS = [
    "127.0.0.1", "1.2.3.4", "0.0.0.0", "255.255.255.255", "127.1", "0x7f.1", "1", "01.2.3.4",
    "::1", "::", "fe80::1", "fe80::1%lo", "fe80::1%1", "ff02::1%lo", "::1%1", "::ffff:1.2.3.4", "::1.2.3.4", "2001:DB8::0001",
    b"127.0.0.1", "", None, "127.0.0.1 ", "1.2.3.4.5", "::g", "fe80::1%nowhere", "fe80::1%",
]  # fmt: skip
PORTS = [80, 0, None, "80", "080", "", b"80", 65535, True]
TYPES = [0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET, 99]
PROTOS = [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 99]
FAMILIES = [socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]


def _answer(host: Any, port: Any, *how: int) -> Any:
    try:
        return socket.getaddrinfo(host, port, *how)
    except Exception as error:
        return (type(error), str(error))


async def _asked(loop: Any, host: Any, port: Any, family: int, type: int, proto: int, flags: int) -> Any:
    try:
        return await loop.getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
    except Exception as error:
        return (error.__class__, str(error))


def _cases() -> list[tuple[Any, ...]]:
    # No name is looked up: anything but an address fails at once.
    numeric = socket.AI_NUMERICHOST
    cases: list[tuple[Any, ...]] = [(host, 80, 0, type, 0, numeric) for host in HOSTS for type in TYPES[:2]]
    cases += [(host, 80, family, 0, 0, numeric) for host in HOSTS for family in FAMILIES]
    hosts = ("127.0.0.1", "::1")
    cases += [(host, port, 0, 1, 0, numeric) for host in hosts for port in PORTS]
    cases += [("::1", 80, 0, *how, numeric) for how in itertools.product(TYPES, PROTOS)]
    cases += [("127.0.0.1", 80, 0, 1, 0, numeric | flags) for flags in (1, 2, 4, 8, 16, 32, 1024)]
    cases += [("127.0.0.1", 80, 0, 1, 0, flags) for flags in (0, 1)]
    cases += [("127.0.0.1", port, 0, 1, 0, 0) for port in ("http", 70_000, -1, "70000", 1.5)]
    return cases


@pytest.mark.one_mode
def test_addresses_are_answered_as_the_socket_module_does(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for case in _cases():
            answer, expected = await _asked(loop, *case), _answer(*case)
            assert answer == expected, case
            if isinstance(expected, list):
                for one, other in zip(answer, expected, strict=True):
                    assert [type(part) for part in one] == [type(part) for part in other], case
                    assert [type(part) for part in one[4]] == [type(part) for part in other[4]], case

    run(main())


def test_a_name(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        expected = socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        assert await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM) == expected
        with pytest.raises(socket.gaierror) as caught:
            await loop.getaddrinfo("no such host", 80, flags=socket.AI_NUMERICHOST)
        assert caught.value.errno == socket.EAI_NONAME

    run(main())


def test_getnameinfo(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        for address in (("127.0.0.1", 80), ("::1", 80, 0, 0)):
            assert await loop.getnameinfo(address, numeric) == socket.getnameinfo(address, numeric)
        assert await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST) == socket.getnameinfo(
            ("127.0.0.1", 80), socket.NI_NUMERICHOST
        )
        for wrong, error in (
            (("127.0.0.1",), TypeError),
            ("127.0.0.1", TypeError),
            (("127.0.0.1", -1), socket.gaierror),
        ):
            with pytest.raises(error):
                await loop.getnameinfo(wrong, numeric)

    run(main())


def test_a_replaced_function_is_honoured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: int, *how: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.9", port))]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for host in ("127.0.0.1", "example.org"):
            assert (await loop.getaddrinfo(host, 7))[0][4] == ("127.0.0.9", 7)
        assert await loop.getnameinfo(("127.0.0.1", 80), 3) == ("name", "service")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "getnameinfo", lambda sockaddr, flags: ("name", "service"))
    run(main())


def test_a_replaced_run_in_executor_is_honoured(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        original, calls = loop.run_in_executor, []

        def run_in_executor(executor: Any, func: Any, *args: Any) -> Any:
            calls.append(func)
            return original(executor, func, *args)

        loop.run_in_executor = run_in_executor  # type: ignore[method-assign,assignment]
        await loop.getaddrinfo("localhost", 80)
        assert len(calls) == 1
        del loop.run_in_executor

    run(main())


def test_a_programs_own_executor_looks_names_up(run: Run) -> None:
    from concurrent.futures import ThreadPoolExecutor

    async def main() -> None:
        loop = asyncio.get_running_loop()
        names: list[str] = []

        class Executor(ThreadPoolExecutor):
            def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
                names.append(fn.__name__)
                return super().submit(fn, *args, **kwargs)

        loop.set_default_executor(Executor(1))
        await loop.getaddrinfo("localhost", 80)
        assert names in (["getaddrinfo"], ["_getaddrinfo_debug"])

    run(main())


def test_slow_names_hold_up_no_thread_of_the_program(run: Run, impl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not impl.is_rondel:
        pytest.skip("asyncio looks names up in the default executor")
    go_on = threading.Event()

    def slow(*args: Any) -> list[Any]:
        assert go_on.wait(10)
        return []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        looking = [loop.create_task(loop.getaddrinfo(f"host-{number}", 80)) for number in range(40)]
        await asyncio.sleep(0)
        # The default executor has no more than 36 threads.
        assert await asyncio.wait_for(asyncio.to_thread(sum, (1, 2)), 5) == 3
        go_on.set()
        assert await asyncio.gather(*looking) == [[]] * 40

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    run(main())


def test_no_thread_is_left(run: Run) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    before = set(threading.enumerate())
    run(main())
    assert set(threading.enumerate()) == before


def test_a_closed_loop_looks_nothing_up(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(loop.getaddrinfo("localhost", 80))
    looking = loop.getaddrinfo("localhost", 80)
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        loop.run_until_complete(looking)


def test_cancelling_a_lookup(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: go_on.wait(10))

    async def main() -> None:
        task = asyncio.ensure_future(asyncio.get_running_loop().getaddrinfo("slow", 80))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    run(main())


@pytest.mark.one_mode
def test_a_literal_is_audited(run: Run) -> None:
    seen: list[Any] = []
    on = [True]

    def hook(event: str, args: Any) -> None:
        if on and event == "socket.getaddrinfo":
            seen.append(args)

    sys.addaudithook(hook)  # forever, so that it does nothing afterwards

    async def main() -> None:
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)

    run(main())
    on.clear()
    assert seen == [("127.0.0.1", 80, 0, socket.SOCK_STREAM, 0)]
