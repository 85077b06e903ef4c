"""Sequences of datagram operations (sending, failing, closing) end as on stock asyncio."""

import asyncio
import itertools
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

TOO_LARGE = bytes(70_000)
# Each letter is an operation.
SENDS = {
    "o": "good",
    "n": "by name",
    "t": "an address of one part",
    "v": "a port that is too large",
    "m": "a datagram that is too large",
    "e": "to port 0",
}
OTHERS = {
    "c": "close",
    "a": "abort",
    "p": "pause reading",
    "r": "resume reading",
    "s": "ask for the buffer's size",
    "l": "set limits",
    "y": "give way",
}


def _sequences() -> Iterator[str]:
    for length in (1, 2, 3):
        yield from map("".join, itertools.product("otvmec", repeat=length))
    for length in (2, 3):
        yield from map("".join, itertools.product("omtcaysp", repeat=length))
    chosen = random.Random(7)
    for _ in range(400):
        yield "".join(chosen.choices([*SENDS, *OTHERS, "o", "y"], k=chosen.randint(4, 8)))


class _Noting(asyncio.DatagramProtocol):
    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.raises = False

    def error_received(self, exc: Exception) -> None:
        self.events.append(f"error {exc!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append(f"lost {exc!r}")


async def _outcome(sequence: str, receiver: socket.socket, *, connected: bool) -> list[str]:
    events: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: events.append(f"{context['message']}: {context.get('exception')!r}"))
    address = receiver.getsockname()
    where: dict[str, Any] = {"remote_addr": address} if connected else {"local_addr": ("127.0.0.1", 0)}
    transport, _ = await loop.create_datagram_endpoint(lambda: _Noting(events), **where)
    sock = transport.get_extra_info("socket")
    port = address[1]
    sends: dict[str, Any] = {
        "n": (b"n", ("localhost", port)),
        "t": (b"t", ("127.0.0.1",)),
        "v": (b"v", ("127.0.0.1", 70_000)),
        "m": (TOO_LARGE, None if connected else address),
        "e": (b"e", ("127.0.0.1", 0)),
    }
    for number, letter in enumerate(sequence):
        # asyncio raises when its socket is gone; Rondel does nothing (docs/compatibility.md).
        if letter in SENDS and sock.fileno() == -1:
            continue
        match letter:
            case "o":
                transport.sendto(b"o%d" % number, None if connected else address)
            case "c":
                transport.close()
            case "a":
                transport.abort()
            case "p":
                transport.pause_reading()
            case "r":
                transport.resume_reading()
            case "s":
                events.append(f"waiting {transport.get_write_buffer_size()}")
            case "l":
                transport.set_write_buffer_limits(high=number)
            case "y":
                await asyncio.sleep(0)
            case _:
                try:
                    transport.sendto(*sends[letter])
                except ValueError as error:  # a connected endpoint has a single address
                    events.append(repr(error).replace(str(address), "(its address)"))
    for _ in range(3):
        await asyncio.sleep(0)
    events.append(f"closing {transport.is_closing()}")
    transport.close()
    for _ in range(3):
        await asyncio.sleep(0)
    received = []
    while True:
        try:
            received.append(receiver.recv(100).decode())
        except BlockingIOError:
            return [*events, *received]


@pytest.mark.one_mode
@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
def test_any_sequence_comes_to_the_same(loop: asyncio.AbstractEventLoop, connected: bool) -> None:
    sequences = list(dict.fromkeys(_sequences()))
    different = []
    stock = asyncio.SelectorEventLoop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        for sequence in sequences:
            right, seen = (
                where.run_until_complete(_outcome(sequence, receiver, connected=connected)) for where in (stock, loop)
            )
            if right != seen:
                different.append((sequence, right, seen))
    stock.close()
    assert different == []
