"""hypercorn, run by `python -m rondel`, because it has no option for other loops."""

from processes import PYTHON, RONDEL
from use_asgi import RONDELS, use_http, use_websocket

HYPERCORN = (*RONDEL, "-m", "hypercorn", "asgi:app", "--workers", "0")


def test_http_and_websockets(programs, port):
    server = programs.serve(port, *HYPERCORN, "--bind", f"127.0.0.1:{port}")
    where = use_http(f"http://127.0.0.1:{port}")
    assert where == {"loop": RONDELS, "pid": server.pid, "http": "1.1"}
    use_websocket(f"ws://127.0.0.1:{port}")
    assert server.stop() == 0
    assert "shut down in good order" in server.output


def test_http2_over_tls(programs, port, certificate):
    files = ("--keyfile", certificate.key, "--certfile", certificate.chain)
    programs.serve(port, *HYPERCORN, "--bind", f"127.0.0.1:{port}", *files)
    where = use_http(f"https://localhost:{port}", certificate.client, http2=True)
    assert (where["loop"], where["http"]) == (RONDELS, "2")


def test_workers_that_are_started_afresh(programs, port):
    """Its workers are started anew, so the module of the application installs Rondel."""
    server = programs.serve(
        port, *PYTHON, "-m", "hypercorn", "installing:app", "--workers", "2", "--bind", f"127.0.0.1:{port}"
    )
    where = use_http(f"http://127.0.0.1:{port}")
    assert where["loop"] == RONDELS
    assert where["pid"] != server.pid
    server.stop()


def test_serve_in_a_program(programs, port):
    server = programs.serve(port, *PYTHON, "serve_hypercorn.py", port)
    assert use_http(f"http://127.0.0.1:{port}")["loop"] == RONDELS
    assert server.stop() == 0
