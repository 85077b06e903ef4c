"""Starlette and FastAPI: uvicorn runs them; their test client creates its loop by anyio."""

import asyncio

import httpx
import pytest
import rondel
from fastapi.testclient import TestClient
from fastapi_app import app
from processes import PYTHON
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from use_asgi import RONDELS
from websockets.sync.client import connect

UVICORN = (*PYTHON, "-m", "uvicorn", "fastapi_app:app", "--loop", "rondel:new_event_loop")


def test_under_uvicorn(programs, port):
    server = programs.serve(port, *UVICORN, "--port", port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        assert client.get("/where").json() == {"loop": RONDELS, "lifespan": RONDELS}
        assert client.get("/in-thread").json() == {"main": False}
        assert client.post("/items/7", json={"name": "x", "price": 2.5}).json() == {"id": 7, "name": "x", "total": 17.5}
        assert client.post("/items/7", json={"name": "x"}).status_code == 422
        assert client.get("/stream").text == "".join(f"line {number}\n" for number in range(100))
        # A background task, which runs after the response.
        assert client.post("/later").json() == {"done": 0}
        server.wait_until(lambda: client.get("/later").json() == {"done": 1}, "the background task did not run")
        assert client.get("/fail").status_code == 500
    with connect(f"ws://127.0.0.1:{port}/ws") as socket:
        socket.send("a")
        assert socket.recv() == "got a"
    server.stop()
    assert "shut down in good order" in server.output


def test_the_test_client():
    with TestClient(app, backend_options={"loop_factory": rondel.new_event_loop}) as client:
        assert client.get("/where").json()["loop"] == RONDELS
        with client.websocket_connect("/ws") as socket:
            socket.send_text("b")
            assert socket.receive_text() == "got b"


@pytest.mark.parametrize("module", [asyncio, rondel])
def test_a_background_task_that_is_a_queues_method(run, module):
    """Starlette awaits what a coroutine function returns, and calls anything else in a thread."""

    async def main():
        queue = module.Queue()
        await BackgroundTask(queue.put, 5)()
        assert queue.get_nowait() == 5

        async def endpoint(request):
            return PlainTextResponse("later", background=BackgroundTask(queue.put, 6))

        application = Starlette(routes=[Route("/", endpoint)])
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            assert (await client.get("/")).text == "later"
        assert await queue.get() == 6

    run(main())
