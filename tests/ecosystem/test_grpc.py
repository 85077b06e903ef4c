"""gRPC's asyncio server and client. gRPC polls in its own thread and wakes the loop by a socket."""

import asyncio

import grpc
import grpc.aio
import pytest


class Service(grpc.GenericRpcHandler):
    """Each kind of call, with bytes as messages."""

    def service(self, details):
        async def unary(request, context):
            if request == b"fail":
                await context.abort(grpc.StatusCode.NOT_FOUND, "it is not here")
            return request[::-1]

        async def server_stream(request, context):
            for number in range(int(request)):
                yield b"%d" % number

        async def both(requests, context):
            async for request in requests:
                yield request.upper()

        async def silent(request, context):
            await asyncio.get_running_loop().create_future()

        return {
            "/test/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/test/Server": grpc.unary_stream_rpc_method_handler(server_stream),
            "/test/Both": grpc.stream_stream_rpc_method_handler(both),
            "/test/Silent": grpc.unary_unary_rpc_method_handler(silent),
        }.get(details.method)


def test_grpc(run):
    async def main():
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Service(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            unary = channel.unary_unary("/test/Unary")
            assert await asyncio.gather(*(unary(b"%d" % n) for n in range(10, 110))) == [
                (b"%d" % n)[::-1] for n in range(10, 110)
            ]
            large = bytes(range(256)) * 4000
            assert await unary(large) == large[::-1]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unary(b"fail")
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "it is not here")
            stream = channel.unary_stream("/test/Server")(b"100")
            assert [message async for message in stream] == [b"%d" % number for number in range(100)]
            call = channel.stream_stream("/test/Both")()
            for word in (b"one", b"two"):
                await call.write(word)
                assert await call.read() == word.upper()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test/Silent")(b"", timeout=0.1)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            call = channel.unary_unary("/test/Silent")(b"")
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        await server.stop(None)

    run(main())
