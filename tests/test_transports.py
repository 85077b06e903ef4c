"""The user's own protocols on TCP transports: the calls they get, flow control, pausing, exceptions they raise."""

import asyncio
import gc
import socket
import sys
import weakref

import pytest


class Recorder(asyncio.Protocol):
    """Notes each call; `closed` is done when the connection is lost."""

    def __init__(self):
        self.calls = []
        self.data = b""
        self.closed = asyncio.get_running_loop().create_future()
        self.arrived = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data):
        assert type(data) is bytes
        if self.calls[-1] != "data":
            self.calls.append("data")
        self.data += data
        self.arrived.set()

    def eof_received(self):
        self.calls.append("eof")

    def connection_lost(self, error):
        self.calls.append("lost")
        if not self.closed.done():
            self.closed.set_result(error)


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


async def serve(factory, **options):
    """A server on a free port whose protocols are kept in a list."""
    protocols = []

    def make():
        protocols.append(factory())
        return protocols[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", 0, **options)
    return server, server.sockets[0].getsockname(), protocols


async def close(server, *transports):
    for transport in transports:
        transport.close()
    server.close()
    await server.wait_closed()


def test_the_calls_in_their_order(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, served = await serve(Echo)
        transport, protocol = await loop.create_connection(Recorder, *address)
        assert protocol.calls == ["made"]
        assert protocol.transport is transport
        transport.write(b"hello")
        await protocol.arrived.wait()
        assert protocol.data == b"hello"
        transport.write_eof()
        assert await protocol.closed is None
        assert protocol.calls == ["made", "data", "eof", "lost"]
        await served[0].closed
        assert served[0].calls == ["made", "data", "eof", "lost"]
        await close(server)

    run(main())


def test_transports_are_asyncios(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, _ = await serve(Echo)
        transport, protocol = await loop.create_connection(Recorder, *address)
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_protocol() is protocol
        assert transport._protocol is protocol
        assert transport._loop is loop
        assert transport._sock is not None
        assert transport.is_reading()
        assert transport.get_write_buffer_limits() == (16384, 65536)
        await close(server, transport)
        await protocol.closed

    run(main())


def test_repr(run, debug):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, _ = await serve(Echo)
        transport, protocol = await loop.create_connection(Recorder, *address)
        text = repr(transport)
        assert text.startswith("<"), text
        assert " fd=" in text
        transport.close()
        assert "clos" in repr(transport)
        await close(server)
        await protocol.closed

    run(main())


def test_data_comes_before_the_end(run):
    async def main():
        loop = asyncio.get_running_loop()

        class Sender(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.write(b"x" * 500_000)
                transport.close()

        server, address, served = await serve(Sender)
        _, protocol = await loop.create_connection(Recorder, *address)
        assert await protocol.closed is None
        assert protocol.data == b"x" * 500_000
        assert protocol.calls == ["made", "data", "eof", "lost"]
        await served[0].closed
        await close(server)

    run(main())


def test_eof_received_true_keeps_the_transport_open(run):
    async def main():
        loop = asyncio.get_running_loop()

        class HalfOpen(Recorder):
            def eof_received(self):
                super().eof_received()
                loop.call_soon(self.answer)
                return True

            def answer(self):
                self.transport.write(b"after the end")
                self.transport.close()

        server, address, _ = await serve(HalfOpen)
        transport, protocol = await loop.create_connection(Recorder, *address)
        assert transport.can_write_eof()
        transport.write_eof()
        await protocol.closed
        assert protocol.data == b"after the end"
        await close(server)

    run(main())


def test_pause_and_resume_reading(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, served = await serve(Echo)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        transport.write(b"held back")
        await asyncio.sleep(0.01)  # time for what must not happen
        assert protocol.data == b""
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        await protocol.arrived.wait()
        assert protocol.data == b"held back"
        transport.close()
        transport.pause_reading()
        transport.resume_reading()
        assert not transport.is_reading()
        await protocol.closed
        await close(server)

    run(main())


def test_pause_reading_inside_data_received(run):
    async def main():
        loop = asyncio.get_running_loop()

        class OneAtATime(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.pause_reading()
                loop.call_soon(self.transport.resume_reading)

        server, address, served = await serve(OneAtATime)
        transport, _ = await loop.create_connection(Recorder, *address)
        transport.write(b"x" * 3_000_000)
        transport.close()
        while not served:
            await asyncio.sleep(0)
        await served[0].closed
        assert len(served[0].data) == 3_000_000
        await close(server)

    run(main())


def test_flow_control_of_writing(run):
    async def main():
        loop = asyncio.get_running_loop()

        class Writer(Recorder):
            def pause_writing(self):
                self.calls.append(("pause", self.transport.get_write_buffer_size() > 2000))

            def resume_writing(self):
                self.calls.append(("resume", self.transport.get_write_buffer_size() <= 1000))
                self.arrived.set()

        class Slow(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.pause_reading()

        server, address, served = await serve(Slow)
        transport, protocol = await loop.create_connection(Writer, *address)
        transport.set_write_buffer_limits(high=2000, low=1000)
        assert transport.get_write_buffer_limits() == (1000, 2000)
        transport.write(b"x" * 20_000_000)
        transport.write(b"y")
        assert protocol.calls == ["made", ("pause", True)]
        assert transport.get_write_buffer_size() > 1_000_000
        while not served:
            await asyncio.sleep(0)
        served[0].transport.resume_reading()
        await protocol.arrived.wait()
        assert protocol.calls == ["made", ("pause", True), ("resume", True)]
        transport.close()
        await protocol.closed
        await served[0].closed
        assert len(served[0].data) == 20_000_001
        await close(server)

    run(main())


def test_write_buffer_limits(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, _ = await serve(Echo)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.set_write_buffer_limits(high=4000)
        assert transport.get_write_buffer_limits() == (1000, 4000)
        transport.set_write_buffer_limits(low=500)
        assert transport.get_write_buffer_limits() == (500, 2000)
        transport.set_write_buffer_limits(0)
        assert transport.get_write_buffer_limits() == (0, 0)
        with pytest.raises(ValueError, match=r"high \(5\) must be >= low \(6\) must be >= 0"):
            transport.set_write_buffer_limits(5, 6)
        await close(server, transport)
        await protocol.closed

    run(main())


def test_a_failing_pause_writing(run, problems):
    async def main():
        loop = asyncio.get_running_loop()

        class Bad(Recorder):
            def pause_writing(self):
                raise ValueError("in pause_writing")

        server, address, served = await serve(Recorder)
        transport, protocol = await loop.create_connection(Bad, *address)
        while not served:
            await asyncio.sleep(0)
        served[0].transport.pause_reading()
        transport.write(b"x" * 20_000_000)
        assert [context["message"] for context in problems] == ["protocol.pause_writing() failed"]
        assert set(problems[0]) == {"message", "exception", "transport", "protocol"}
        transport.abort()
        await protocol.closed
        served[0].transport.abort()
        await served[0].closed
        await close(server)

    run(main())


def test_an_exception_in_data_received(run, problems):
    error = ValueError("in data_received")

    async def main():
        loop = asyncio.get_running_loop()

        class Bad(Recorder):
            def data_received(self, data):
                raise error

        server, address, served = await serve(Bad)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.write(b"x")
        await protocol.closed
        assert await served[0].closed is error
        await close(server)
        [context] = problems
        assert context["message"] == "Fatal error: protocol.data_received() call failed."
        assert context["exception"] is error
        assert context["protocol"] is served[0]
        assert context["transport"] is served[0].transport
        assert set(context) == {"message", "exception", "transport", "protocol"}

    run(main())


def test_an_exception_in_eof_received(run, problems):
    error = ValueError("in eof_received")

    async def main():
        loop = asyncio.get_running_loop()

        class Bad(Recorder):
            def eof_received(self):
                raise error

        server, address, served = await serve(Bad)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.write_eof()
        await protocol.closed
        assert await served[0].closed is error
        await close(server)
        [context] = problems
        assert context["message"] == "Fatal error: protocol.eof_received() call failed."
        assert context["exception"] is error

    run(main())


def test_an_exception_in_connection_made_of_a_server(run, problems):
    error = ValueError("in connection_made")

    async def main():
        loop = asyncio.get_running_loop()

        class Bad(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise error

        server, address, served = await serve(Bad)
        transport, protocol = await loop.create_connection(Recorder, *address)
        while not problems:
            await asyncio.sleep(0)
        [context] = problems
        assert context["exception"] is error
        assert context["message"].startswith("Exception in callback ")
        # asyncio goes on with the connection: only the callback failed.
        transport.write(b"still there")
        await served[0].arrived.wait()
        assert served[0].data == b"still there"
        transport.close()
        await protocol.closed
        await served[0].closed
        await close(server)

    run(main())


# asyncio leaves the socket of a failed factory to the garbage collector, which warns.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_exception_in_a_servers_protocol_factory(run, problems, debug):
    def factory():
        raise ValueError("in the factory")

    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        server, address, _ = await serve(factory)
        _, protocol = await loop.create_connection(Recorder, *address)
        while debug and not problems:
            await asyncio.sleep(0)
        seen.extend((context["message"], str(context["exception"])) for context in problems)
        problems.clear()
        while not protocol.closed.done():
            gc.collect()
            await asyncio.sleep(0.001)
        assert protocol.calls == ["made", "eof", "lost"]
        await close(server)

    run(main())
    # asyncio reports this in debug mode only.
    assert seen == ([("Error on transport creation for incoming connection", "in the factory")] if debug else [])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_exception_in_a_clients_protocol_factory(run):
    def factory():
        raise ValueError("in the factory")

    async def main():
        loop = asyncio.get_running_loop()
        server, address, served = await serve(Recorder)
        with pytest.raises(ValueError, match="in the factory"):
            await loop.create_connection(factory, *address)
        while not (served and served[0].calls):
            await asyncio.sleep(0)
        served[0].transport.abort()
        await served[0].closed
        await close(server)
        gc.collect()

    run(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_system_exit_in_data_received_leaves_the_loop(impl, kind):
    left, right = socket.socketpair()
    loop = impl.new_event_loop()

    class Bad(asyncio.Protocol):
        def data_received(self, data):
            raise kind("out")

    transport, _ = loop.run_until_complete(loop.create_connection(Bad, sock=left))
    right.send(b"x")
    with pytest.raises(kind, match="out"):
        loop.run_forever()
    transport.abort()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    right.close()


class Buffered(asyncio.BufferedProtocol):
    def __init__(self, size=1000):
        self.buffer = bytearray(size)
        self.received = bytearray()
        self.hints = []
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, hint):
        self.hints.append(hint)
        return self.buffer

    def buffer_updated(self, count):
        self.received += self.buffer[:count]

    def eof_received(self):
        pass

    def connection_lost(self, error):
        self.closed.set_result(error)


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_buffered_protocol(run, size):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, served = await serve(lambda: Buffered(size))
        transport, protocol = await loop.create_connection(Recorder, *address)
        data = bytes(range(256)) * (40 if size < 100 else 4000)
        transport.write(data)
        transport.write_eof()
        await protocol.closed
        assert await served[0].closed is None
        assert served[0].received == data
        assert set(served[0].hints) == {-1}
        await close(server)

    run(main())


def test_a_memoryview_as_buffer(run):
    async def main():
        class Views(Buffered):
            def get_buffer(self, hint):
                return memoryview(self.buffer)[: self.closed.done() or 7]

        loop = asyncio.get_running_loop()
        server, address, served = await serve(Views)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.write(b"0123456789" * 10)
        transport.write_eof()
        await protocol.closed
        assert served[0].received == b"0123456789" * 10
        await close(server)

    run(main())


@pytest.mark.parametrize(
    ("where", "message", "error"),
    [
        ("get_buffer", "Fatal error: protocol.get_buffer() call failed.", ValueError),
        ("empty", "Fatal error: protocol.get_buffer() call failed.", RuntimeError),
        ("buffer_updated", "Fatal error: protocol.buffer_updated() call failed.", ValueError),
    ],
)
def test_exceptions_of_a_buffered_protocol(run, problems, where, message, error):
    async def main():
        class Bad(Buffered):
            def get_buffer(self, hint):
                if where == "get_buffer":
                    raise ValueError("bad")
                return bytearray() if where == "empty" else super().get_buffer(hint)

            def buffer_updated(self, count):
                raise ValueError("bad")

        loop = asyncio.get_running_loop()
        server, address, served = await serve(Bad)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.write(b"x")
        await protocol.closed
        assert type(await served[0].closed) is error
        [context] = problems
        assert context["message"] == message
        assert type(context["exception"]) is error
        await close(server)

    run(main())


def test_set_protocol(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, served = await serve(Echo)
        transport, first = await loop.create_connection(Recorder, *address)
        transport.write(b"one")
        await first.arrived.wait()
        second = Recorder()
        second.calls.append("made")
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        transport.write(b"two")
        await second.arrived.wait()
        third = Buffered()
        transport.set_protocol(third)
        transport.write(b"three")
        while len(third.received) < 5:
            await asyncio.sleep(0)
        transport.close()
        await third.closed
        assert (first.data, second.data, bytes(third.received)) == (b"one", b"two", b"three")
        assert first.calls == ["made", "data"]
        await close(server)

    run(main())


def test_write_can_be_replaced_on_the_instance(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, _ = await serve(Echo)
        transport, protocol = await loop.create_connection(Recorder, *address)
        seen, stock = [], transport.write
        transport.write = lambda data: seen.append(data) or stock(data)
        transport.write(b"seen")
        await protocol.arrived.wait()
        assert seen == [b"seen"]
        await close(server, transport)
        await protocol.closed

    run(main())


def test_abort_drops_what_is_buffered(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, served = await serve(Recorder)
        transport, protocol = await loop.create_connection(Recorder, *address)
        while not served:
            await asyncio.sleep(0)
        served[0].transport.pause_reading()
        transport.write(b"x" * 20_000_000)
        transport.abort()
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert protocol.calls == ["made"]
        assert await protocol.closed is None
        served[0].transport.abort()
        await close(server)

    run(main())


def test_connection_lost_is_called_once_and_later(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, _ = await serve(Echo)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.close()
        transport.abort()
        transport.close()
        assert "lost" not in protocol.calls
        await protocol.closed
        await asyncio.sleep(0.005)
        assert protocol.calls == ["made", "lost"]
        await close(server)

    run(main())


def test_closing_inside_data_received(run):
    async def main():
        loop = asyncio.get_running_loop()

        class Once(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.write(b"bye")
                self.transport.close()

        server, address, served = await serve(Once)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.write(b"x")
        await protocol.closed
        assert protocol.data == b"bye"
        assert served[0].calls == ["made", "data", "lost"]
        await close(server)

    run(main())


def test_many_writes_from_one_callback(run):
    async def main():
        loop = asyncio.get_running_loop()

        class Twice(Recorder):
            def data_received(self, data):
                super().data_received(data)
                for _ in range(3):
                    self.transport.write(data)
                self.transport.writelines([b"<", data, b">"])

        server, address, _ = await serve(Twice)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.write(b"abc")
        while len(protocol.data) < 14:
            await asyncio.sleep(0)
        assert protocol.data == b"abcabcabc<abc>"
        await close(server, transport)
        await protocol.closed

    run(main())


def test_the_context_of_protocol_calls(run):
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")

    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        class Reads(Recorder):
            def data_received(self, data):
                super().data_received(data)
                seen.append(variable.get())

        server, address, _ = await serve(Echo)
        variable.set("at connecting")
        transport, protocol = await loop.create_connection(Reads, *address)
        variable.set("later")
        transport.write(b"x")
        await protocol.arrived.wait()
        assert seen == ["at connecting"]
        await close(server, transport)
        await protocol.closed

    run(main())


def test_a_transport_left_open_warns(impl, recwarn):
    left, right = socket.socketpair()
    loop = impl.new_event_loop()
    transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=left))
    with pytest.warns(ResourceWarning, match="unclosed transport <"):
        transport.__del__()
    transport.abort()
    del transport
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    right.close()
    gc.collect()


def test_protocols_and_transports_are_freed(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, served = await serve(Echo)
        alive = []
        for _ in range(10):
            transport, protocol = await loop.create_connection(Recorder, *address)
            alive += [weakref.ref(transport), weakref.ref(protocol)]
            transport.write(b"x")
            await protocol.arrived.wait()
            transport.close()
            await protocol.closed
        for protocol in served:
            await protocol.closed
            alive += [weakref.ref(protocol), weakref.ref(protocol.transport)]
        served.clear()
        del transport, protocol
        await asyncio.sleep(0)
        gc.collect()
        assert [ref() for ref in alive if ref() is not None] == []
        await close(server)

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's socket buffers")
def test_writes_to_a_full_socket_keep_their_order(run):
    async def main():
        loop = asyncio.get_running_loop()
        server, address, served = await serve(Recorder)
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        expected = b""
        for number in range(2000):
            piece = b"%06d" % number * 50
            expected += piece
            transport.write(piece)
        transport.close()
        await protocol.closed
        await served[0].closed
        assert served[0].data == expected
        await close(server)

    run(main())
