"""uvicorn: `--loop rondel:new_event_loop`."""

import importlib.util
import shutil
import signal

import httpx
import pytest
from processes import APPS, PYTHON, RONDEL
from use_asgi import RONDELS, use_http, use_websocket

UVICORN = (*PYTHON, "-m", "uvicorn", "asgi:app", "--loop", "rondel:new_event_loop")
#: zttp, for HTTP/2, is new and not available for every interpreter.
ZTTP = pytest.param("zttp", marks=pytest.mark.skipif(not importlib.util.find_spec("zttp"), reason="zttp is not here"))
PARSERS = ["h11", "httptools", ZTTP]


@pytest.mark.parametrize("websockets", ["websockets", "websockets-sansio", "wsproto"])
@pytest.mark.parametrize("parser", PARSERS)
def test_http_and_websockets(programs, port, parser, websockets):
    server = programs.serve(port, *UVICORN, "--port", port, "--http", parser, "--ws", websockets)
    where = use_http(f"http://127.0.0.1:{port}")
    assert where == {"loop": RONDELS, "pid": server.pid, "http": "1.1"}
    use_websocket(f"ws://127.0.0.1:{port}")
    server.stop()
    assert "shut down in good order" in server.output


@pytest.mark.parametrize("parser", PARSERS)
def test_tls(programs, port, certificate, parser):
    files = ("--ssl-keyfile", certificate.key, "--ssl-certfile", certificate.chain)
    programs.serve(port, *UVICORN, "--port", port, "--http", parser, *files)
    where = use_http(f"https://localhost:{port}", certificate.client)
    assert where["loop"] == RONDELS
    use_websocket(f"wss://localhost:{port}", certificate.client)


def test_http2_over_tls(programs, port, certificate):
    pytest.importorskip("zttp", reason="uvicorn speaks HTTP/2 by it")
    files = ("--ssl-keyfile", certificate.key, "--ssl-certfile", certificate.chain)
    programs.serve(port, *UVICORN, "--port", port, "--http", "zttp", "--http2", *files)
    where = use_http(f"https://localhost:{port}", certificate.client, http2=True)
    assert (where["loop"], where["http"]) == (RONDELS, "2")


def test_by_the_command(programs, port):
    """With `--loop none` uvicorn asks asyncio for a loop, which is Rondel's."""
    server = programs.serve(port, *RONDEL, "-m", "uvicorn", "asgi:app", "--loop", "none", "--port", port)
    assert use_http(f"http://127.0.0.1:{port}")["loop"] == RONDELS
    server.stop(signal.SIGINT)
    assert "shut down in good order" in server.output


def test_workers(programs, port):
    server = programs.serve(port, *UVICORN, "--port", port, "--workers", "2")
    seen = set()

    def both_answered():
        where = httpx.get(f"http://127.0.0.1:{port}/where", timeout=20).json()
        assert where["loop"] == RONDELS
        seen.add(where["pid"])
        return len(seen) == 2

    server.wait_until(both_answered, "only one worker answered")
    assert server.pid not in seen
    assert server.stop() == 0
    assert server.output.count("shut down in good order") == 2


def where_of(port, pid=None):
    """Wait until a worker other than `pid` responds; return what it reports."""
    try:
        where = httpx.get(f"http://127.0.0.1:{port}/where", timeout=20).json()
    except httpx.TransportError:
        return None
    return where if where["pid"] != pid else None


def test_workers_by_the_command(programs, port):
    """The workers are processes that `multiprocessing` starts anew."""
    server = programs.serve(
        port, *RONDEL, "-m", "uvicorn", "asgi:app", "--loop", "none", "--port", port, "--workers", "2"
    )
    seen = {}

    def both_answered():
        if where := where_of(port):
            seen[where["pid"]] = where["loop"]
        return len(seen) == 2

    server.wait_until(both_answered, "only one worker answered")
    assert set(seen.values()) == {RONDELS}
    assert server.pid not in seen
    assert server.stop() == 0
    assert server.output.count("shut down in good order") == 2


@pytest.mark.parametrize("watches", ["WatchFiles", "StatReload"])
def test_reload_by_the_command(programs, port, tmp_path, watches):
    """So is the process that is started when a file has changed."""
    if watches == "WatchFiles":
        pytest.importorskip("watchfiles", reason="uvicorn watches files by it")
    shutil.copy(APPS / "asgi.py", tmp_path)
    hidden = {} if watches == "WatchFiles" else {"PYTHONPATH": str(tmp_path / "hiding")}
    (tmp_path / "hiding").mkdir()
    (tmp_path / "hiding" / "watchfiles.py").write_text("raise ImportError", encoding="utf-8")
    command = (*RONDEL, "-m", "uvicorn", "asgi:app", "--loop", "none", "--port", port, "--reload")
    server = programs.start(*command, "--reload-dir", tmp_path, "--app-dir", tmp_path, **hidden)
    server.wait_until(lambda: where_of(port), "no answer")
    before = where_of(port)
    assert before["loop"] == RONDELS and before["pid"] != server.pid
    with (tmp_path / "asgi.py").open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    server.wait_until(lambda: where_of(port, before["pid"]), "nothing was started again")
    assert where_of(port)["loop"] == RONDELS
    assert f"using {watches}" in server.output
    server.stop(signal.SIGINT)


def test_on_a_unix_socket(programs, tmp_path):
    path = tmp_path / "socket"
    server = programs.start(*UVICORN, "--uds", path)
    server.wait_until(path.exists, "no socket")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path), retries=20), timeout=20) as client:
        assert client.get("http://server/where").json()["loop"] == RONDELS
