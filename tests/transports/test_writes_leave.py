"""Written data is sent before a program can notice the delay, whatever the step does next."""

import asyncio
import contextlib
import ctypes
import fcntl
import inspect
import os
import pickle
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from child_programs import output
from unseen import read_unseen, received_unseen

PATIENCE = 10.0  # seconds; each wait takes some milliseconds


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


@contextlib.asynccontextmanager
async def connected(make: Callable[[], tuple[socket.socket, socket.socket]] = tcp_pair) -> AsyncIterator[Any]:
    """A transport, and its peer, a non-blocking socket."""
    ours, peer = make()
    ours.setblocking(False)
    peer.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    with peer:
        try:
            yield transport, peer
        finally:
            transport.abort()
            await asyncio.sleep(0)


def arrived(peer: socket.socket, block: Callable[[], object]) -> bytes:
    """Return what the peer receives during this step, which calls `block()` repeatedly."""
    end = time.monotonic() + PATIENCE
    got = received_unseen(peer)
    while not got and time.monotonic() < end:
        block()
        got = received_unseen(peer)
    return got


# ---- steps that last ----

BLOCKING = {
    "sleep": lambda: time.sleep(0.001),
    "lock": lambda: threading.Event().wait(0.001),
    "compute": lambda: sum(range(10_000)),
}


@pytest.mark.parametrize("block", BLOCKING)
@pytest.mark.parametrize("write", ["write", "writelines"])
def test_a_step_that_lasts(run, block, write):
    async def main() -> None:
        async with connected() as (transport, peer):
            for _ in range(2):
                transport.write(b"abc") if write == "write" else transport.writelines([b"a", b"bc"])
                assert arrived(peer, BLOCKING[block]) == b"abc"
            await asyncio.sleep(0)
            assert received_unseen(peer) == b""

    run(main())


def test_a_step_that_only_runs_python_code(run):
    async def main() -> None:
        async with connected() as (transport, peer):
            peer.setblocking(True)
            got: list[bytes] = []

            def receive() -> None:
                while not (data := received_unseen(peer)):
                    time.sleep(0.0005)
                got.append(data)

            receiver = threading.Thread(target=receive, daemon=True)
            receiver.start()
            transport.write(b"x")
            end = time.monotonic() + PATIENCE
            while not got and time.monotonic() < end:
                pass
            assert got == [b"x"]
            receiver.join()

    run(main())


def test_a_step_that_lasts_in_another_thread(impl):
    done = []

    async def main() -> None:
        async with connected() as (transport, peer):
            for block in BLOCKING.values():
                transport.write(b"x")
                done.append(arrived(peer, block))

    def work() -> None:
        with asyncio.Runner(loop_factory=impl.new_event_loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [b"x"] * len(BLOCKING)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before 3.12 only the main thread can be asked")
def test_a_step_that_only_computes_in_another_thread(impl):
    """The data is sent before the switch interval makes the step release the GIL."""
    recv = ctypes.PyDLL(None).recv  # it holds the GIL
    took = []

    async def main() -> None:
        async with connected() as (transport, peer):
            buffer = ctypes.create_string_buffer(1)
            for _ in range(3):
                transport.write(b"x")
                began = time.monotonic()
                while recv(peer.fileno(), buffer, 1, socket.MSG_DONTWAIT) != 1:
                    sum(range(1000))
                took.append(time.monotonic() - began)
                await asyncio.sleep(0)

    def work() -> None:
        with asyncio.Runner(loop_factory=impl.new_event_loop) as runner:
            runner.run(main())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(2)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    # A busy machine may delay the thread that has to send, but not each time.
    assert len(took) == 3 and min(took) < 1, took


def test_a_step_that_streams_and_blocks(run, aio):
    async def main() -> None:
        ours, peer = tcp_pair()
        ours.setblocking(False)
        _, writer = await aio.open_connection(sock=ours)
        with peer:
            for number in range(5):
                writer.write(b"%d" % number)
                await writer.drain()
                assert arrived(peer, BLOCKING["sleep"]) == b"%d" % number
            writer.close()

    run(main())


def test_datagrams_in_a_step_that_lasts(run):
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            endpoint = asyncio.get_running_loop().create_datagram_endpoint
            transport, _ = await endpoint(asyncio.DatagramProtocol, remote_addr=peer.getsockname())
            for number in range(4):
                transport.sendto(b"%d" % number)
            assert [arrived(peer, BLOCKING["sleep"]) for _ in range(4)] == [b"0", b"1", b"2", b"3"]
            transport.close()

    run(main())


def test_a_connection_that_fails_in_a_step_that_lasts(run):
    class Protocol(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(type(exc))

    lost: list[Any] = []

    async def main() -> None:
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_connection(Protocol, sock=ours)
        transport.pause_reading()
        peer.close()
        transport.write(b"into the void")
        time.sleep(0.02)
        transport.write(b"into the void")
        assert transport.is_closing()
        await asyncio.sleep(0)
        assert lost == [BrokenPipeError]

    run(main())


def test_a_peer_that_takes_no_more_in_a_step_that_lasts(run):
    async def main() -> None:
        async with connected(socket.socketpair) as (transport, peer):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sent = got = b""
            for number in range(3):
                part = bytes([number]) * 20_000
                transport.write(part)
                sent += part
                time.sleep(0.01)
            end = time.monotonic() + PATIENCE
            while len(got) < len(sent) and time.monotonic() < end:
                got += received_unseen(peer)
                await asyncio.sleep(0)
            assert got == sent

    run(main())


# ---- system calls outside the transport ----


def by_write(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    os.write(sock.fileno(), b"B")
    return b"ABC"


def by_writev(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    os.writev(sock.fileno(), [b"B", b"B"])
    return b"ABBC"


def by_send(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    sock._sock.send(b"B")
    return b"ABC"


def by_copy(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    with sock.dup() as copy:
        copy.sendall(b"B")
    return b"ABC"


def by_descriptors(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    fd = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(sock._sock, [b"B"], [fd])
    os.close(fd)
    return b"ABC"


def by_option(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert received_unseen(peer, 1) == b"A"
    return b"C"


def by_ioctl(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    waiting = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    assert waiting > 0  # the peer has not received it
    return b"AC"


def by_peer(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    return peer.recv(10) + b"C"


def by_read(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    return os.read(peer.fileno(), 10) + b"C"


def by_shutdown(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    sock.shutdown(socket.SHUT_WR)
    return b"A"


def by_close(transport: Any, sock: Any, peer: socket.socket) -> bytes:
    kept = os.dup(sock.fileno())
    transport.abort()
    os.close(kept)
    return b"A"


WAYS = [
    by_write,
    by_writev,
    by_send,
    by_copy,
    by_descriptors,
    by_option,
    by_ioctl,
    by_peer,
    by_read,
    by_shutdown,
    by_close,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_reaches_the_kernel_past_the_transport(run, way, problems):
    async def main() -> None:
        async with connected(socket.socketpair) as (transport, peer):
            sock = transport.get_extra_info("socket")
            transport.pause_reading()
            before = b""
            if way in (by_peer, by_read):
                before = b"A"
            transport.write(b"A")
            expected = way(transport, sock, peer)
            transport.write(b"C")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            got = before
            # Data with descriptors is received separately.
            while data := received_unseen(peer):
                got += data
            assert got == expected

    run(main())


def test_another_thread_looks_at_the_peer(run):
    async def main() -> None:
        async with connected() as (transport, peer):
            got = []
            transport.write(b"x")
            thread = threading.Thread(target=lambda: got.append(peer.recv(10)))
            thread.start()
            thread.join()
            assert got == [b"x"]

    run(main())


def test_the_functions_are_what_they_were(impl, loop):
    """Rondel hooks some of the interpreter's C functions: programs must not see that."""
    assert str(inspect.signature(os._exit)) == "(status)"
    assert str(inspect.signature(os.write)) == "(fd, data, /)"
    assert type(os._exit) is type(os.getpid)
    assert type(socket.socket.send) is type(socket.socket.getpeername)
    assert pickle.loads(pickle.dumps(os.execv)) is os.execv
    assert os.write.__doc__ and os.write.__module__ == "posix"
    with pytest.raises(TypeError):
        os.write()  # type: ignore[call-arg]
    with pytest.raises(OSError):
        os.read(-1, 1)


# ---- the process ends, or starts another one ----

ENDS = {
    "exec": "os.execv('/bin/true', ['true'])",
    "_exit": "os._exit(0)",
    "_exit, imported before": "leave(0)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "raise_signal": "signal.raise_signal(signal.SIGKILL)",
    "pthread_kill": "signal.pthread_kill(threading.get_ident(), signal.SIGKILL)",
    "abort": "os.abort()",
    "another thread": "threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(30)",
    "SystemExit": "sys.exit()",
}


def test_the_process_ends_after_a_write(impl):
    program = f"""
        import os, resource, signal, socket, sys, threading, time, warnings
        from os import _exit as leave
        warnings.simplefilter("ignore")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        async def write_and_end(listener, receiver, end):
            loop = asyncio.get_running_loop()
            ours = socket.create_connection(listener.getsockname())
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            address = receiver.getsockname()
            endpoint, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
            await asyncio.sleep(0)
            endpoint.sendto(b"1")
            endpoint.sendto(b"2")
            transport.write(b"bye")
            exec(end)

        for name, end in {ENDS}.items():
            listener = socket.create_server(("127.0.0.1", 0))
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            receiver.bind(("127.0.0.1", 0))
            listener.settimeout(10)
            receiver.settimeout(10)
            pid = os.fork()
            if not pid:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                asyncio.run(write_and_end(listener, receiver, end))
            peer, _ = listener.accept()
            peer.settimeout(10)
            os.waitpid(pid, 0)
            assert (name, peer.recv(10)) == (name, b"bye")
            assert [receiver.recv(10) for _ in range(2)] == [b"1", b"2"]
        print("done")
    """
    assert output(impl, program) == "done\n"


SPAWNS = {
    "system": lambda: os.system("true"),
    "Popen": lambda: subprocess.run(["/bin/true"], check=True),
    "posix_spawn": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
}


@pytest.mark.parametrize("spawn", SPAWNS)
def test_a_process_begins_after_a_write(run, spawn):
    async def main() -> None:
        async with connected() as (transport, peer):
            transport.write(b"x")
            # Both may take longer than the monitor waits. The test asserts that nothing is lost or
            # sent twice.
            SPAWNS[spawn]()
            assert received_unseen(peer) == b"x"
            await asyncio.sleep(0)
            assert received_unseen(peer) == b""

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="earlier versions don't warn")
@pytest.mark.skipif(not hasattr(os, "unshare"), reason="came with 3.12")
def test_a_namespace_may_be_left_after_writes(impl):
    """The kernel allows no process with several threads to enter a new user namespace."""
    program = """
        import os, socket

        async def main():
            loop = asyncio.get_running_loop()
            ours, peer = socket.socketpair()
            ours.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            for function, argument in ((os.unshare, os.CLONE_NEWUSER), (os.unshare, os.CLONE_THREAD)):
                transport.write(b"x")
                await asyncio.sleep(0)
                assert peer.recv(10) == b"x"
                transport.write(b"y")
                try:
                    function(argument)
                except PermissionError:
                    print("not allowed here")
                assert peer.recv(10) == b"y"
            transport.abort()
            peer.close()

        asyncio.run(main())
    """
    assert output(impl, program) in ("", "not allowed here\n")


def test_a_fork_after_writes_is_one_of_a_single_thread(impl):
    """The interpreter warns of a fork if the kernel counts several threads."""
    program = """
        import os, socket, time, warnings
        warnings.simplefilter("error")

        async def talk():
            loop = asyncio.get_running_loop()
            ours, peer = socket.socketpair()
            ours.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            for _ in range(3):
                transport.write(b"x")
                time.sleep(0.01)
                assert peer.recv(10) == b"x"
            transport.write(b"y")
            return transport, peer

        async def main():
            for _ in range(10):
                transport, peer = await talk()
                pid = os.fork()
                if not pid:
                    asyncio.events._set_running_loop(None)
                    async def child():
                        transport, peer = await talk()
                        transport.abort()
                        peer.close()
                    asyncio.run(child())
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
                assert peer.recv(10) == b"y"
                transport.abort()
                peer.close()
                await asyncio.sleep(0)

        asyncio.run(main())
        print("done")
    """
    assert output(impl, program) == "done\n"


def test_the_interpreter_ends_while_a_daemon_threads_step_lasts(impl):
    program = """
        import socket, threading, time

        async def main():
            ours, peer = socket.socketpair()
            ours.setblocking(False)
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
            while True:
                transport.write(b"x")
                begun.set()
                time.sleep(0.003)

        begun = threading.Event()
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        begun.wait()
    """
    for _ in range(3):
        assert output(impl, program) == ""


@pytest.mark.one_mode
def test_no_signal_comes_to_the_monitor(run, impl):
    async def main() -> None:
        async with connected() as (transport, peer):
            transport.write(b"x")
            assert arrived(peer, BLOCKING["sleep"]) == b"x"
            blocked = {}
            for thread in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{thread}/status") as status:
                    lines = dict(line.split(":", 1) for line in status)
                blocked[lines["Name"].strip()] = int(lines["SigBlk"], 16)
            assert "rondel-monitor" in blocked or not impl.is_rondel
            terminating = sum(1 << (number - 1) for number in (1, 2, 10, 12, 14, 15, 17))
            assert blocked.get("rondel-monitor", terminating) & terminating == terminating

    run(main())


# ---- order ----


def test_the_order_across_connections(run):
    async def main() -> None:
        async with connected() as (first, first_peer), connected() as (second, second_peer):
            first.write(b"1")
            second.write(b"2")
            first.write(b"3")
            # The last data may still wait. When it has arrived, all earlier data has.
            assert received_unseen(first_peer)[:1] == b"1"
            assert received_unseen(second_peer) == b"2"

            first.write(b"4")
            second.write(bytes(100_000))
            assert received_unseen(first_peer).endswith(b"4")
            assert received_unseen(second_peer) != b""

            first.write(b"5")
            second.close()
            assert received_unseen(first_peer) == b"5"

    run(main())


def test_the_order_of_connections_and_pipes(run):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        pipe, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writing, "wb", 0))
        async with connected() as (transport, peer):
            transport.write(b"first")
            pipe.write(b"second")
            assert received_unseen(peer) == b"first"
            assert read_unseen(reading) == b"second"
        pipe.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        os.close(reading)

    run(main())


def test_the_order_of_datagrams_across_endpoints(run):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            address = peer.getsockname()
            endpoints = [
                (await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address))[0]
                for _ in range(2)
            ]
            sent = []
            for index in (0, 1, 0, 1, 1, 0, 0, 0, 1):
                sent.append(b"%d" % len(sent))
                endpoints[index].sendto(sent[-1])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [received_unseen(peer) for _ in sent] == sent
            for endpoint in endpoints:
                endpoint.close()

    run(main())


def test_options_between_datagrams(run):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
            sock = transport.get_extra_info("socket")
            for ttl in (1, 2, 3, 4):
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
                transport.sendto(b"%d" % ttl, peer.getsockname())
            got = []
            for _ in range(4):
                data, ancillary, _, _ = peer.recvmsg(10, 100)
                got.append((data, [struct.unpack("i", value)[0] for *_, value in ancillary]))
            assert got == [(b"%d" % ttl, [ttl]) for ttl in (1, 2, 3, 4)]
            transport.close()

    run(main())


def test_a_datagrams_path_that_is_gone(run, tmp_path):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "peer")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.bind(path)
            peer.setblocking(False)
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, family=socket.AF_UNIX)
            for data in (b"1", b"2", b"3"):
                transport.sendto(data, path)
            os.unlink(path)
            assert [received_unseen(peer) for _ in range(3)] == [b"1", b"2", b"3"]
            transport.close()

    run(main())


# ---- what is large ----


@pytest.mark.parametrize("kind", [bytearray, memoryview])
@pytest.mark.parametrize("write", ["write", "writelines"])
def test_what_the_kernel_takes_at_once_is_not_copied(run, kind, write):
    if write == "writelines" and sys.version_info < (3, 12):
        pytest.skip("before 3.12 asyncio joins the lines")

    async def main() -> None:
        async with connected(socket.socketpair) as (transport, peer):
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
            data = kind(bytes(150_000))
            tracemalloc.start()
            try:
                transport.write(data) if write == "write" else transport.writelines([data])
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 50_000
            assert len(received_unseen(peer, 1 << 20)) > 0
            transport.write(b"end")

    run(main())


def test_a_large_buffer_arrives_whole_and_in_order(run):
    async def main() -> None:
        async with connected(socket.socketpair) as (transport, peer):
            large = bytearray(os.urandom(3_000_000))
            transport.write(b"begin")
            transport.write(large)
            transport.writelines([memoryview(large)[:1_000_000], b"middle", large[:100]])
            transport.write(b"end")
            expected = b"begin" + large + large[:1_000_000] + b"middle" + large[:100] + b"end"
            got = bytearray()
            while len(got) < len(expected):
                got += received_unseen(peer)
                await asyncio.sleep(0)
            assert got == expected

    run(main())
