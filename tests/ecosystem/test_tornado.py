"""tornado: its IOLoop uses asyncio's running loop, or creates one by asyncio."""

import signal

import httpx
from processes import PYTHON, RONDEL
from use_asgi import RONDELS
from websockets.sync.client import connect

OF_OLD = """
import sys
from tornado.ioloop import IOLoop
from tornado_app import make

make().listen(int(sys.argv[1]), "127.0.0.1")
IOLoop.current().start()
"""


def use(port):
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        assert client.get("/where").json()["loop"] == RONDELS
        body = bytes(range(256)) * 4000
        assert client.post("/echo", content=body).content == body
        assert client.get("/stream").content == b"".join(b"%d," % number * 1000 for number in range(50))
    with connect(f"ws://127.0.0.1:{port}/ws", max_size=None) as socket:
        for message in ("hello", "ä" * 40_000, b"", bytes(1_000_000)):
            socket.send(message)
            assert socket.recv(timeout=20) == message


def test_in_a_program(programs, port):
    server = programs.serve(port, *PYTHON, "tornado_app.py", port)
    use(port)
    assert server.stop(signal.SIGINT) == -signal.SIGINT


def test_by_the_command(programs, port):
    programs.serve(port, *RONDEL, "-c", OF_OLD, port)
    use(port)
