"""The programs of examples/ print the expected output, in each way of running them."""

import asyncio
import os
import re
import resource
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
WAYS = ["python", "python -m rondel", "import rondel as asyncio", "rondel.run(main())"]


@pytest.fixture(params=WAYS)
def way(request):
    if request.param != "python" and request.config.getoption("--impl") == "asyncio":
        pytest.skip("only stock asyncio was asked for")
    return request.param


def start(way, name, tmp_path, *arguments, port=None, **options):
    """Start an example in one of the ways, with the given port if there is one."""
    text = (EXAMPLES / f"{name}.py").read_text()
    if port is not None:
        assert text.count("8888") >= 1
        text = text.replace("8888", str(port))
    command = [sys.executable]
    if way == "python -m rondel":
        command += ["-m", "rondel"]
    elif way == "import rondel as asyncio":
        assert "\nimport asyncio\n" in text
        text = text.replace("\nimport asyncio\n", "\nimport rondel as asyncio\n")
    elif way == "rondel.run(main())":
        assert text.endswith("\nasyncio.run(main())\n")
        text = text.removesuffix("asyncio.run(main())\n") + "import rondel; rondel.run(main())\n"
    file = tmp_path / f"{name}.py"
    file.write_text(text)
    return subprocess.Popen(
        [*command, str(file), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=50)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return out, err, process.returncode


def test_coroutine_object(way, tmp_path):
    out, err, status = finish(start(way, "coroutine_object", tmp_path))
    assert status == 0, err
    assert re.fullmatch(r"<coroutine object my_coroutine at 0x[0-9a-f]+>\n", out)
    assert err == (
        f"{tmp_path}/coroutine_object.py:12: RuntimeWarning: coroutine 'my_coroutine' was never awaited\n"
        "  print(my_coroutine())\n"
        "RuntimeWarning: Enable tracemalloc to get the object allocation traceback\n"
    )


SAY_AFTER = {
    "say_after_tasks": "hello\nworld\ntook 2 seconds\n",
    "say_after_gather": "hello\nworld\n['HELLO', 'WORLD']\ntook 2 seconds\n",
}


def test_say_after_in_real_time(tmp_path, request):
    """All ways run at the same time, because each takes two seconds."""
    ways = WAYS[:1] if request.config.getoption("--impl") == "asyncio" else WAYS
    started = []
    for number, (name, expected) in enumerate(SAY_AFTER.items()):
        for way in ways:
            folder = tmp_path / f"{number}-{WAYS.index(way)}"
            folder.mkdir()
            started.append((way, name, expected, start(way, name, folder)))
    failed = []
    for way, name, expected, process in started:
        out, err, status = finish(process)
        if (out, err, status) != (expected, "", 0):
            failed.append((way, name, out, err, status))
    assert not failed


class VirtualLoop(asyncio.SelectorEventLoop):
    """Stock asyncio in virtual time: the clock advances instead of waiting."""

    def __init__(self):
        loop = self
        loop.now = 0.0

        class Selector(selectors.EpollSelector):
            def select(self, timeout=None):
                loop.now += timeout or 0
                return super().select(0)

        super().__init__(Selector())
        self._clock_resolution = 1e-9

    def time(self):
        return self.now


@pytest.mark.parametrize("name", SAY_AFTER)
def test_say_after_in_virtual_time(impl, aio, name, capsys, monkeypatch):
    if impl.is_rondel:
        import rondel

        loop = rondel.EventLoop(virtual_start=0.0)
    else:
        loop = VirtualLoop()
    taken = []

    def run(main):
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main)
            taken.append(loop.time())

    monkeypatch.setattr(asyncio, "run", run)
    if impl.name == "rondel":
        # The program starts with `import rondel as asyncio`.
        monkeypatch.setitem(sys.modules, "asyncio", aio)
        monkeypatch.setattr(aio, "run", run)
    start = time.monotonic()
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert time.monotonic() - start < 1
    assert capsys.readouterr().out == SAY_AFTER[name]
    assert taken == [pytest.approx(2.0, abs=0.001)]


def test_crawler(way, tmp_path):
    assert finish(start(way, "crawler", tmp_path)) == ("1000 pages, 1789000 bytes\n", "", 0)


def test_several_cores(way, tmp_path):
    out, err, status = finish(start(way, "several_cores", tmp_path, "0.2"))
    assert (err, status) == ("", 0)
    several = r"\d+ processes: \d+ answers a second, \d\.\d\d times as many"
    if len(os.sched_getaffinity(0)) == 1:
        several = "only one core is to be had here: there is nothing to compare it with"
    assert re.fullmatch(rf"1 process: \d+ answers a second\n{several}\n", out)


def exchange(port, message):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        mine = connection.getsockname()
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    return mine, answer


def test_echo_server(way, tmp_path, free_port):
    server = start(way, "echo_server", tmp_path, port=free_port)
    try:
        assert server.stdout.readline() == f"serving on ('127.0.0.1', {free_port})\n"
        expected = []
        for message in (b"hello\n", b"x" * 100, b""):
            mine, answer = exchange(free_port, message)
            assert answer == message
            expected += [f"received {message!r} from {mine}\n"] if message else []
            expected.append(f"{mine} is done\n")
        assert [server.stdout.readline() for _ in expected] == expected
        # Four kilobytes come back, in any number of chunks.
        mine, answer = exchange(free_port, bytes(range(256)) * 16)
        assert answer == bytes(range(256)) * 16
        client = start(way, "echo_client", tmp_path, "over a stream", port=free_port)
        assert finish(client) == ("sent     'over a stream'\nreceived 'over a stream'\n", "", 0)
    finally:
        server.send_signal(signal.SIGINT)
        out, err, status = finish(server)
    assert out.endswith(" is done\n")
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("\nKeyboardInterrupt\n")
    if way in ("python", "python -m rondel"):
        assert "python/rondel/_command.py" not in err
    assert status == -signal.SIGINT


def test_echo_server_stopped_with_clients_connected(way, tmp_path, free_port):
    server = start(way, "echo_server", tmp_path, port=free_port)
    server.stdout.readline()
    connections = [socket.create_connection(("127.0.0.1", free_port), timeout=30) for _ in range(10)]
    for connection in connections:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
    server.send_signal(signal.SIGINT)
    try:
        # The server accepts no more connections; from 3.12 on it also waits for the existing ones.
        for _ in range(3000):
            try:
                socket.create_connection(("127.0.0.1", free_port), timeout=30).close()
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                pass  # it stopped listening while this connection was in its queue
            time.sleep(0.005)
        else:
            pytest.fail("the server still accepts connections")
        waits = "close_clients" not in asyncio.Server.serve_forever.__code__.co_names  # later releases close them
        if sys.version_info >= (3, 12) and waits:
            assert server.poll() is None
            connections[0].sendall(b"y")
            assert connections[0].recv(1) == b"y"
    finally:
        for connection in connections:
            connection.close()
        _, err, status = finish(server)
    assert status == -signal.SIGINT, err


@pytest.mark.timeout(120)
def test_echo_server_with_5000_connections_at_once(way, tmp_path, free_port):
    count = 5000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 100:
        pytest.skip(f"no more than {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 500, hard))
    server = start(way, "echo_server", tmp_path, port=free_port)
    connections = []
    try:
        server.stdout.readline()
        # It prints a line for each message, so its output must be read.
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(server.stdout), daemon=True)
        reader.start()
        for number in range(count):  # one by one, so that open connections are closed if one fails
            connections += [socket.create_connection(("127.0.0.1", free_port), timeout=60)]
            connections[-1].sendall(b"%d" % number)
            # Earlier connections are accepted then. If the queue is full, the kernel retries after
            # a second.
            if number % 50 == 49:
                assert connections[-1].recv(100, socket.MSG_PEEK) == b"%d" % number
        for number, connection in enumerate(connections):
            assert connection.recv(100) == b"%d" % number
        for connection in connections:
            connection.shutdown(socket.SHUT_WR)
        for connection in connections:
            assert connection.recv(100) == b""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for connection in connections:
            connection.close()
        server.send_signal(signal.SIGINT)
        server.wait(30)
        reader.join()
        server.stdout.close()
        errors = server.stderr.read()
        server.stderr.close()
    assert sum(line.startswith("received ") for line in lines) == count
    assert sum(line.endswith(" is done\n") for line in lines) == count
    assert errors.endswith("KeyboardInterrupt\n")


def test_echo_server_when_the_port_is_taken(way, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        out, err, status = finish(start(way, "echo_server", tmp_path, port=port))
    assert (out, status) == ("", 1)
    last = err.splitlines()[-1]
    assert last.startswith(f"OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', {port}): ")
