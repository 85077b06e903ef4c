"""Client code for `apps/asgi.py`, for any server."""

import ssl
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

RONDELS = "rondel._event_loop.EventLoop"


def use_http(base: str, context: ssl.SSLContext | bool = True, http2: bool = False) -> dict[str, Any]:
    """Send requests of each kind over one connection; return what the server reports of itself."""
    with httpx.Client(base_url=base, verify=context, http2=http2, timeout=20) as client:
        assert client.get("/").text == "Hello"
        with client.stream("GET", "/stream") as response:
            assert b"".join(response.iter_raw()) == b"".join(b"%d," % number * 1000 for number in range(50))
        body = bytes(range(256)) * 4000
        assert client.post("/echo", content=body).content == body
        # A body of unknown length is sent in chunks.
        assert client.post("/echo", content=(body[:60_000] for _ in range(10))).content == body[:60_000] * 10
        assert client.get("/fail").status_code == 500
        where: dict[str, Any] = client.get("/where").json()
    return where


def use_websocket(base: str, context: ssl.SSLContext | None = None) -> None:
    """Text, bytes with each kind of length field, and a close by the server."""
    with connect(f"{base}/", ssl=context, max_size=None) as client:
        for message in ("hello", "ä" * 40_000, b"", b"\x00\xff" * 100, bytes(1_000_000)):
            client.send(message)
            assert client.recv(timeout=20) == message
        client.ping().wait(20)
        client.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=20)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 4001
