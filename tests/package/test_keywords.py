"""Parameters that asyncio's documentation names can be passed as keywords."""

from typing import Any

import pytest


def test_calls(loop):
    seen: list[Any] = []

    def step(*args):
        seen.append(args)
        if len(seen) == 3:
            loop.stop()

    loop.call_soon(callback=step)
    loop.call_soon_threadsafe(callback=step, context=None)
    loop.call_at(when=loop.time(), callback=step)
    loop.call_later(delay=60, callback=step).cancel()
    loop.run_forever()
    assert seen == [(), (), ()]


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_what_is_missing_is_named(loop, method):
    with pytest.raises(TypeError, match=r"missing \d required positional arguments?: .*'callback'$"):
        getattr(loop, method)()
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        getattr(loop, method)(1, print, nothing=1)
    with pytest.raises(TypeError, match="multiple values for argument 'callback'"):
        getattr(loop, method)(1, print, callback=print)


def test_task_factory(loop):
    loop.set_task_factory(factory=None)
    assert loop.get_task_factory() is None


def test_streams(run, aio):
    async def main():
        reader = aio.StreamReader()
        reader.feed_data(data=b"line\n")
        assert await reader.readline() == b"line\n"
        reader.set_exception(exc=ValueError("by name"))
        with pytest.raises(ValueError, match="by name"):
            await reader.read(n=1)

        async def handle(reader, writer):
            writer.write(data=await reader.readexactly(n=3))
            writer.writelines(data=[b"d", b"e"])
            writer.transport.write(data=b"f")
            writer.transport.writelines(list_of_data=[b"g"])
            writer.close()

        server = await aio.start_server(client_connected_cb=handle, host="127.0.0.1", port=0)
        async with server:
            reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
            writer.transport.set_protocol(protocol=writer.transport.get_protocol())
            writer.write(data=b"abc")
            assert await reader.read(n=-1) == b"abcdefg"
            writer.close()
            await writer.wait_closed()

    run(main())
