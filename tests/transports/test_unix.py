"""Unix sockets: paths of every kind, abstract addresses, files left on disk, asyncio's errors."""

import asyncio
import errno
import os
import socket
import stat
import sys

import pytest


async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


async def talk(aio, path, message):
    reader, writer = await aio.open_unix_connection(path)
    writer.write(message)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("kind", ["str", "bytes", "PathLike"])
def test_paths(run, aio, tmp_path, kind):
    path = {"str": str, "bytes": lambda p: os.fsencode(p), "PathLike": lambda p: p}[kind](tmp_path / "socket")

    async def main():
        async with await aio.start_unix_server(echo, path) as server:
            assert stat.S_ISSOCK(os.stat(path).st_mode)
            assert os.fsencode(server.sockets[0].getsockname()) == os.fsencode(path)
            assert await talk(aio, path, b"over a path") == b"over a path"
        if sys.version_info >= (3, 13):
            assert not os.path.exists(path)

    run(main())


def test_abstract_addresses(run, aio):
    path = f"\0rondel-test-{os.getpid()}"

    async def main():
        async with await aio.start_unix_server(echo, path):
            assert await talk(aio, path, b"no file") == b"no file"

    run(main())


def test_a_dead_socket_file_is_replaced(run, aio, tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main():
        async with await aio.start_unix_server(echo, path):
            assert await talk(aio, path, b"x") == b"x"

    run(main())


def test_errors(run, aio, tmp_path):
    path = tmp_path / "socket"

    async def main():
        with pytest.raises(FileNotFoundError):
            await aio.open_unix_connection(path)
        path.write_text("a file")
        with pytest.raises(OSError, match=r"Address .* is already in use") as caught:
            await aio.start_unix_server(echo, path)
        assert caught.value.errno == errno.EADDRINUSE
        loop = aio.get_running_loop()
        with pytest.raises(ValueError, match="no path and sock were specified"):
            await loop.create_unix_connection(asyncio.Protocol)
        with pytest.raises(ValueError, match="path was not specified, and no sock specified"):
            await loop.create_unix_server(asyncio.Protocol)
        with socket.socket() as tcp:
            with pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected, got "):
                await loop.create_unix_connection(asyncio.Protocol, sock=tcp)
            with pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected, got "):
                await loop.create_unix_server(asyncio.Protocol, sock=tcp)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="came with 3.13")
def test_cleanup_socket(run, aio, tmp_path):
    path = tmp_path / "socket"

    async def main():
        async with await aio.start_unix_server(echo, path, cleanup_socket=False):
            pass
        assert path.exists()
        async with await aio.start_unix_server(echo, path):
            path.unlink()
            path.write_text("somebody else's")
        assert path.read_text() == "somebody else's"

    run(main())


def test_a_socket_pair(run, aio):
    async def main():
        left, right = socket.socketpair(socket.AF_UNIX)
        reader, writer = await aio.open_unix_connection(sock=left)
        right.sendall(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert writer.get_extra_info("peername") == ""
        right.close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    run(main())


def test_big_transfers(run, aio, tmp_path):
    path = tmp_path / "socket"
    data = os.urandom(3_000_000)

    async def main():
        async with await aio.start_unix_server(echo, path):
            reader, writer = await aio.open_unix_connection(path)
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data
            writer.close()
            await writer.wait_closed()

    run(main())
