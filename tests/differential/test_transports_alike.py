"""Random scripts on a connection: both transports make the same protocol calls."""

import asyncio
import random
import socket
from typing import Any

import pytest


def _script(seed: int) -> list[tuple[Any, ...]]:
    """A strategy for scripts: the steps of the program and of its peer."""
    chance = random.Random(seed)
    steps: list[tuple[Any, ...]] = []
    for _ in range(chance.randrange(3, 25)):
        kind = chance.randrange(26)
        if kind < 7:
            steps.append(("write", chance.choice([1, 100, 5_000, 70_000, 400_000])))
        elif kind < 9:
            steps.append(("writelines", chance.choice([0, 1, 3])))
        elif kind < 13:
            steps.append(("peer_reads", chance.choice([1, 10_000, 1_000_000])))
        elif kind < 17:
            steps.append(("peer_writes", chance.choice([1, 5_000, 100_000])))
        elif kind < 19:
            steps.append(("pause_reading",))
        elif kind < 21:
            steps.append(("resume_reading",))
        elif kind < 22:
            steps.append(("set_write_buffer_limits", chance.choice([0, 10, 200_000])))
        elif kind < 23:
            steps.append(("write_eof",))
        elif kind < 24:
            steps.append(("peer_ends",))
        elif kind < 25:
            steps.append(("close",))
        else:
            steps.append((chance.choice(["abort", "peer_closes"]),))
    return steps


class _Protocol(asyncio.Protocol):
    def __init__(self, keep_open: bool) -> None:
        self.trace: list[Any] = []
        self.keep_open = keep_open
        self.lost = False

    def data_received(self, data: bytes) -> None:
        # How received bytes are split into chunks is not specified.
        if self.trace and isinstance(self.trace[-1], int):
            self.trace[-1] += len(data)
        else:
            self.trace.append(len(data))

    def eof_received(self) -> bool:
        self.trace.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.trace.append("pause")

    def resume_writing(self) -> None:
        self.trace.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.trace.append(("lost", type(exc)))
        self.lost = True


def _peer_reads(peer: socket.socket, size: int) -> int:
    total = 0
    while total < size:
        try:
            data = peer.recv(size - total)
        except (BlockingIOError, ConnectionResetError):
            break
        if not data:
            break
        total += len(data)
    return total


async def _perform(script: list[tuple[Any, ...]], keep_open: bool) -> list[Any]:
    """Run a script; return everything observable."""
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    protocol = _Protocol(keep_open)
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
    peer_open = True
    for step, *args in script:
        if protocol.lost:
            break  # asyncio's transports raise AttributeError after they are closed
        try:
            if step == "write":
                transport.write(bytes(args[0]))
            elif step == "writelines" and not transport.is_closing():  # asyncio raises there, because it lacks a method
                transport.writelines([b"line\n"] * args[0])
            elif step == "peer_reads" and peer_open:
                _peer_reads(peer, args[0])
            elif step == "peer_writes" and peer_open:
                peer.send(bytes(args[0]))
            elif step == "peer_ends" and peer_open:
                peer.shutdown(socket.SHUT_WR)
            elif step == "peer_closes":
                peer.close()
                peer_open = False
            elif step != "writelines" and not step.startswith("peer"):
                getattr(transport, step)(*args)
        except (RuntimeError, OSError) as error:
            protocol.trace.append((type(error), str(error)))
        state = (transport.is_closing(), transport.is_reading(), transport.get_write_buffer_size() > 0)
        protocol.trace.append((step, *state))
        # Long enough for either loop to poll twice; the kernel delivers at once.
        await asyncio.sleep(0.0001)
        await asyncio.sleep(0.0001)
    if not protocol.lost:
        transport.abort()
        while not protocol.lost:
            await asyncio.sleep(0)
    peer.close()
    return protocol.trace


@pytest.mark.parametrize("block", range(4))
def test_scripts_come_out_alike(block: int) -> None:
    import rondel

    with (
        asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as stock,
        asyncio.Runner(loop_factory=rondel.new_event_loop) as ours,
    ):
        for seed in range(block * 40, block * 40 + 40):
            script, keep_open = _script(seed), seed % 2 == 0
            expected = stock.run(_perform(script, keep_open))
            assert ours.run(_perform(script, keep_open)) == expected, f"seed {seed}: {script}"
