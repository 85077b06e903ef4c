"""anyio: `anyio.run(main, backend_options={"loop_factory": rondel.new_event_loop})`."""

import asyncio
import sys

import anyio
import anyio.from_thread
import anyio.to_process
import anyio.to_thread
import pytest
import rondel
from anyio.streams.tls import TLSListener, TLSStream


@pytest.fixture
def anyio_run(way):
    def start(body):
        async def main():
            assert isinstance(asyncio.get_running_loop(), rondel.EventLoop) == (way != "asyncio")
            await body()

        if way == "factory":
            anyio.run(main, backend_options={"loop_factory": rondel.new_event_loop})
        else:
            anyio.run(main)

    return start


def test_task_groups_and_cancel_scopes(anyio_run):
    async def main():
        events = []

        async def worker(name, *, task_status=anyio.TASK_STATUS_IGNORED):
            task_status.started(name)
            try:
                await anyio.sleep_forever()
            finally:
                events.append(name)
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.01)
                    events.append(f"{name} cleaned up")

        async with anyio.create_task_group() as group:
            assert await group.start(worker, "a") == "a"
            with anyio.move_on_after(0.01) as scope:
                await worker("b")
            assert scope.cancelled_caught
            group.cancel_scope.cancel()
        assert events == ["b", "b cleaned up", "a", "a cleaned up"]
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await anyio.sleep_forever()
        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                raise ValueError("one")
        assert [repr(error) for error in caught.value.exceptions] == ["ValueError('one')"]

    anyio_run(main)


def test_threads_and_processes(anyio_run):
    async def main():
        def in_thread():
            return anyio.from_thread.run(anyio.sleep, 0), anyio.from_thread.run_sync(len, "four")

        assert await anyio.to_thread.run_sync(in_thread) == (None, 4)
        assert await anyio.to_process.run_sync(len, "seven..") == 7
        command = [sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read().upper())"]
        assert (await anyio.run_process(command, input=b"hello")).stdout == b"HELLO"
        send, receive = anyio.create_memory_object_stream(5)
        async with anyio.create_task_group() as group, send, receive:

            async def produce():
                async with send.clone() as mine:
                    for number in range(20):
                        await mine.send(number)

            group.start_soon(produce)
            assert [await receive.receive() for _ in range(20)] == list(range(20))

    anyio_run(main)


def test_a_tls_server(anyio_run, certificate):
    async def main():
        tcp_listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = tcp_listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port)
        listener = TLSListener(tcp_listener, certificate.server)

        async def echo(stream):
            async with stream:
                async for data in stream:
                    await stream.send(data)

        body = bytes(range(256)) * 4000
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            tcp = await anyio.connect_tcp("127.0.0.1", port)
            client = await TLSStream.wrap(tcp, hostname="localhost", ssl_context=certificate.client)
            received = bytearray()
            async with client:
                group.start_soon(client.send, body)
                while len(received) < len(body):
                    received += await client.receive()
            assert received == body
            group.cancel_scope.cancel()
        await listener.aclose()

    anyio_run(main)


def test_the_portal():
    with anyio.from_thread.start_blocking_portal(backend_options={"loop_factory": rondel.new_event_loop}) as portal:
        assert isinstance(portal.call(asyncio.get_running_loop), rondel.EventLoop)
        assert portal.start_task_soon(anyio.sleep, 0).result(20) is None
