"""gunicorn, which forks its workers: uvicorn's worker, its own for ASGI, and aiohttp's."""

import os
import signal

import httpx
from processes import PYTHON, RONDEL
from use_asgi import RONDELS, use_http, use_websocket

GUNICORN = ("-m", "gunicorn", "--workers", "2", "--bind")


def pids_that_answer(server, port, count):
    seen = set()

    def enough():
        where = httpx.get(f"http://127.0.0.1:{port}/where", timeout=20).json()
        assert where["loop"] == RONDELS
        seen.add(where["pid"])
        return len(seen) >= count

    server.wait_until(enough, f"fewer than {count} workers answered")
    return seen


def test_the_worker_of_uvicorn(programs, port):
    """A subclass of the worker that names the loop, as in its documentation."""
    server = programs.serve(
        port, *PYTHON, *GUNICORN, f"127.0.0.1:{port}", "-k", "gunicorn_worker.RondelWorker", "asgi:app"
    )
    assert use_http(f"http://127.0.0.1:{port}")["loop"] == RONDELS
    use_websocket(f"ws://127.0.0.1:{port}")
    workers = pids_that_answer(server, port, 2)
    assert server.pid not in workers
    # If a worker dies, the same process forks a new one.
    os.kill(workers.pop(), signal.SIGKILL)
    server.wait_until(lambda: server.output.count("Booting worker") == 3, "no new worker")
    pids_that_answer(server, port, 2)
    assert server.stop() == 0


def test_its_own_worker_for_asgi(programs, port):
    """Forked workers run on Rondel, too, so the command is enough."""
    options = ("-k", "asgi", "--asgi-loop", "asyncio")
    server = programs.serve(port, *RONDEL, *GUNICORN, f"127.0.0.1:{port}", *options, "asgi:app")
    assert use_http(f"http://127.0.0.1:{port}")["loop"] == RONDELS
    pids_that_answer(server, port, 2)
    assert server.stop() == 0


def test_the_worker_of_aiohttp(programs, port):
    options = ("-k", "aiohttp.GunicornWebWorker")
    server = programs.serve(port, *RONDEL, *GUNICORN, f"127.0.0.1:{port}", *options, "aiohttp_app:app")
    pids_that_answer(server, port, 2)
    assert server.stop() == 0
