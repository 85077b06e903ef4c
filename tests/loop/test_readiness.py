"""add_reader and add_writer, and the sock_* methods that use them."""

import asyncio
import contextlib
import gc
import os
import socket
import weakref

import pytest


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    yield left, right
    left.close()
    right.close()


def run_until(loop, condition):
    def check():
        if condition():
            loop.stop()
        else:
            loop.call_later(0.001, check)

    loop.call_soon(check)
    loop.run_forever()


def test_reader(loop, pair):
    left, right = pair
    seen = []
    loop.add_reader(left, lambda *args: seen.append((args, left.recv(10))), "a", "b")
    right.send(b"one")
    run_until(loop, lambda: seen)
    assert seen == [(("a", "b"), b"one")]
    right.send(b"two")
    run_until(loop, lambda: len(seen) == 2)
    assert loop.remove_reader(left) is True
    assert loop.remove_reader(left) is False
    right.send(b"three")
    loop.call_later(0.005, loop.stop)
    loop.run_forever()
    assert len(seen) == 2


def test_level_triggered(loop, pair):
    left, right = pair
    seen = []
    loop.add_reader(left.fileno(), lambda: seen.append(left.recv(1)))
    right.send(b"abc")
    run_until(loop, lambda: len(seen) == 3)
    assert seen == [b"a", b"b", b"c"]
    loop.remove_reader(left.fileno())


def test_writer(loop, pair):
    left, right = pair
    calls = []
    loop.add_writer(left, calls.append, 1)
    run_until(loop, lambda: len(calls) > 2)
    assert loop.remove_writer(left) is True
    assert loop.remove_writer(left) is False


def test_both_on_one_descriptor(loop, pair):
    left, right = pair
    reads, writes = [], []
    loop.add_reader(left, lambda: reads.append(left.recv(10)))
    loop.add_writer(left, lambda: (writes.append(1), loop.remove_writer(left)))
    right.send(b"x")
    run_until(loop, lambda: reads and writes)
    right.send(b"y")
    run_until(loop, lambda: len(reads) == 2)
    assert writes == [1]
    assert loop.remove_reader(left)


def test_a_new_callback_replaces_the_old(loop, pair):
    left, right = pair
    seen = []
    loop.add_reader(left, seen.append, "old")
    loop.add_reader(left, lambda: (seen.append("new"), left.recv(10)))
    right.send(b"x")
    run_until(loop, lambda: seen)
    assert seen == ["new"]
    loop.remove_reader(left)


def test_keyword_names(loop, pair):
    left, right = pair
    loop.add_reader(fd=left, callback=print)
    loop.add_writer(fd=left, callback=print)
    assert loop.remove_writer(fd=left)
    assert loop.remove_reader(fd=left)


def test_removing_inside_the_callback(loop, pair):
    left, right = pair
    seen = []
    loop.add_reader(left, lambda: (seen.append(1), loop.remove_reader(left)))
    right.send(b"xyz")
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert seen == [1]


def test_closed_peers_are_readable(loop, pair):
    left, right = pair
    seen = []
    loop.add_reader(left, lambda: (seen.append(left.recv(10)), loop.remove_reader(left)))
    right.close()
    run_until(loop, lambda: seen)
    assert seen == [b""]


def test_pipes(loop):
    reader, writer = os.pipe()
    seen = []
    loop.add_reader(reader, lambda: seen.append(os.read(reader, 10)))
    os.write(writer, b"pipe")
    run_until(loop, lambda: seen)
    assert seen == [b"pipe"]
    loop.remove_reader(reader)
    os.close(reader)
    os.close(writer)


def test_exceptions_go_to_the_handler(loop, pair, problems):
    left, right = pair

    def bad():
        loop.remove_reader(left)
        raise ValueError("in a reader")

    loop.add_reader(left, bad)
    right.send(b"x")
    run_until(loop, lambda: problems)
    assert [str(context["exception"]) for context in problems] == ["in a reader"]


def test_refusals(loop, pair):
    left, _ = pair
    with pytest.raises(ValueError, match="Invalid file object"):
        loop.add_reader("text", print)
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        loop.add_reader(-1, print)
    with pytest.raises(PermissionError):  # epoll does not accept regular files
        with open(__file__) as file:
            loop.add_reader(file, print)
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_reader(left, print)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_writer(left, print)
    assert loop.remove_reader(left) is False


def test_a_descriptor_of_a_transport_is_refused(run, pair):
    left, right = pair

    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
        for method in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match=r"File descriptor .* is used by transport <"):
                method(left, print)
        for method in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError, match=r"File descriptor .* is used by transport <"):
                method(left)
        transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(main())


def test_a_number_that_is_used_again(loop):
    seen = []
    for turn in range(5):
        left, right = socket.socketpair()
        loop.add_reader(left, lambda left=left, turn=turn: (seen.append(turn), left.recv(1)))
        right.send(b"x")
        run_until(loop, lambda turn=turn: turn in seen)
        loop.remove_reader(left)
        left.close()
        right.close()
    assert seen == [0, 1, 2, 3, 4]


def test_sock_calls(run):
    async def main():
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        client = socket.socket()
        client.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        accepted, address = await accepting
        assert address == client.getsockname()
        sending = asyncio.ensure_future(loop.sock_sendall(client, b"x" * 3_000_000))
        size = 0
        while size < 3_000_000:
            size += len(await loop.sock_recv(accepted, 100_000))
        await sending
        await loop.sock_sendall(accepted, b"back")
        buffer = bytearray(10)
        assert await loop.sock_recv_into(client, buffer) == 4
        assert buffer[:4] == b"back"
        for each in (listener, client, accepted):
            each.close()

    run(main())


def test_datagram_sock_calls(run):
    async def main():
        loop = asyncio.get_running_loop()
        first, second = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
            each.setblocking(False)
        assert await loop.sock_sendto(first, b"datagram", second.getsockname()) == 8
        assert await loop.sock_recvfrom(second, 100) == (b"datagram", first.getsockname())
        await loop.sock_sendto(first, b"again", second.getsockname())
        buffer = bytearray(10)
        assert await loop.sock_recvfrom_into(second, buffer) == (5, first.getsockname())
        first.close()
        second.close()

    run(main())


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_a_socket_that_was_closed_before_it_is_removed(loop, side):
    """Like anyio: asyncio finds the file object by its identity."""
    add, remove = getattr(loop, f"add_{side}"), getattr(loop, f"remove_{side}")
    left, right = socket.socketpair()
    with right:
        add(left, print)
        left.close()
        assert remove(left) is True
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            remove(left)


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_the_file_object_is_kept_as_long_as_it_is_watched(loop, side):
    """By the first callback and by one that replaces it, and not afterwards."""
    add, remove = getattr(loop, f"add_{side}"), getattr(loop, f"remove_{side}")
    with contextlib.ExitStack() as stack:
        left, right = [stack.enter_context(sock) for sock in socket.socketpair()]

        class File:
            def fileno(self):
                return left.fileno()

        file = File()
        alive = weakref.ref(file)
        add(file, print)
        add(file, repr)
        del file
        gc.collect()
        assert alive() is not None
        assert remove(left.fileno()) is True
        gc.collect()
        assert alive() is None
        assert remove(left) is False


def test_what_fileno_gives_is_made_an_int(loop):
    """Like `selectors`: mocks of sockets rely on it."""
    left, right = socket.socketpair()

    class Number:
        def __int__(self):
            return left.fileno()

    class File:
        def fileno(self):
            return Number()

    with left, right:
        loop.add_reader(File(), print)
        assert loop.remove_reader(File()) is True
        assert loop.remove_reader(File()) is False


def test_a_file_object_that_refers_to_its_loop_is_collected(impl):
    loop = impl.new_event_loop()
    left, right = socket.socketpair()

    class File:
        def fileno(self):
            return left.fileno()

    file = File()
    file.loop = loop
    alive = weakref.ref(file)
    loop.add_reader(file, print)
    loop.close()
    assert loop.remove_reader(file) is False
    del file, loop
    gc.collect()
    assert alive() is None
    left.close()
    right.close()


class Odd:
    def __init__(self, outcome):
        self.outcome = outcome

    def fileno(self):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def __repr__(self):
        return "Odd()"


@pytest.mark.parametrize(
    ("fd", "expected", "text"),
    [
        (Odd(TypeError("no")), ValueError, r"Invalid file object: Odd\(\)"),
        (Odd(AttributeError("no")), ValueError, r"Invalid file object: Odd\(\)"),
        (Odd(ValueError("no")), ValueError, r"Invalid file object: Odd\(\)"),
        (Odd("7"[:0]), ValueError, r"Invalid file object: Odd\(\)"),
        (Odd(ZeroDivisionError("own")), ZeroDivisionError, "own"),
        (Odd(-3), ValueError, "Invalid file descriptor: -3"),
        (object(), ValueError, "Invalid file object: <object object at"),
        (-1, ValueError, "Invalid file descriptor: -1"),
        (None, ValueError, "Invalid file object: None"),
    ],
)
def test_what_is_no_descriptor(loop, fd, expected, text):
    for call in (lambda: loop.add_reader(fd, print), lambda: loop.add_writer(fd, print)):
        with pytest.raises(expected, match=text):
            call()
    for call in (lambda: loop.remove_reader(fd), lambda: loop.remove_writer(fd)):
        with pytest.raises(expected, match=text):
            call()
    loop.close()
    if isinstance(fd, int):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.add_reader(fd, print)
        assert loop.remove_reader(fd) is False


def turns_until(loop, begin):
    """Count turns of a busy loop until the callback that `begin` got is called; 50 at most."""
    turns = 0
    called = []

    def spin():
        nonlocal turns
        turns += 1
        if called or turns == 50:
            loop.stop()
        else:
            loop.call_soon(spin)

    # The first turn of a run always polls.
    loop.call_soon(loop.call_soon, lambda: (begin(lambda: called.append(turns)), loop.call_soon(spin)))
    loop.run_forever()
    return called[:1]


def test_what_one_end_writes_arrives_at_the_other_in_the_next_turn(run, pair):
    """Tests with client and server in one loop rely on it."""

    class Receiver(asyncio.Protocol):
        def data_received(self, data):
            self.received()

    async def main():
        loop = asyncio.get_running_loop()
        ours, _ = await loop.create_connection(asyncio.Protocol, sock=pair[0])
        theirs, receiver = await loop.create_connection(Receiver, sock=pair[1])
        turns, arrived = 0, loop.create_future()
        receiver.received = lambda: arrived.set_result(turns)

        def spin():
            nonlocal turns
            turns += 1
            if not arrived.done() and turns < 50:
                loop.call_soon(spin)

        await asyncio.sleep(0)
        loop.call_soon(spin)
        ours.write(b"x")
        assert await arrived == 1
        ours.close()
        theirs.close()
        await asyncio.sleep(0)

    run(main())


def test_what_a_descriptors_callback_sends_arrives_in_the_next_turn(loop, pair):
    """As above, for programs without transports, such as tornado."""
    turns, relayed, arrived = 0, [], []

    def relay():
        left.recv(1)
        there.send(b"x")
        relayed.append(turns)

    def arrive():
        here.recv(1)
        arrived.append(turns)

    def spin():
        nonlocal turns
        turns += 1
        if arrived or turns == 60:
            loop.stop()
        else:
            loop.call_soon(spin)

    left, right = pair
    here, there = socket.socketpair()
    with here, there:
        loop.add_reader(left, relay)
        loop.add_reader(here, arrive)
        loop.call_soon(spin)
        right.send(b"x")
        loop.run_forever()
        loop.remove_reader(left)
        loop.remove_reader(here)
    assert [after - before for after, before in zip(arrived, relayed, strict=True)] == [1]


def test_a_descriptor_that_is_ready_is_seen_in_the_next_turn(loop, pair):
    left, right = pair
    right.send(b"x")
    assert turns_until(loop, lambda called: loop.add_reader(left, called)) == [1]
    loop.remove_reader(left)
    assert turns_until(loop, lambda called: loop.add_writer(left, called)) == [1]
    loop.remove_writer(left)
