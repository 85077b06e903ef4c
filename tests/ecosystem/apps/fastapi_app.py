"""A FastAPI application: models, dependencies, threads, background tasks, streams, websockets."""

import asyncio
import contextlib
import threading

from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


def loops_name():
    loop = type(asyncio.get_running_loop())
    return f"{loop.__module__}.{loop.__qualname__}"


@contextlib.asynccontextmanager
async def lifespan(application):
    application.state.loop = loops_name()
    application.state.done = 0
    yield
    print("shut down in good order", flush=True)


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float


async def factor(number: int):
    await asyncio.sleep(0)
    yield number
    await asyncio.sleep(0)


@app.get("/where")
async def where():
    return {"loop": loops_name(), "lifespan": app.state.loop}


@app.get("/in-thread")
def in_thread():
    return {"main": threading.current_thread() is threading.main_thread()}


@app.post("/items/{number}")
async def total(number: int, item: Item, times: int = Depends(factor)):
    return {"id": number, "name": item.name, "total": item.price * times}


@app.get("/stream")
async def stream():
    async def lines():
        for number in range(100):
            yield f"line {number}\n"
            await asyncio.sleep(0)

    return StreamingResponse(lines())


async def work():
    await asyncio.sleep(0.01)
    app.state.done += 1


@app.post("/later")
async def later(tasks: BackgroundTasks):
    tasks.add_task(work)
    return {"done": app.state.done}


@app.get("/later")
async def how_many():
    return {"done": app.state.done}


@app.get("/fail")
async def fail():
    raise RuntimeError("the application failed")


@app.websocket("/ws")
async def websocket(socket: WebSocket):
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.send_text(f"got {await socket.receive_text()}")
