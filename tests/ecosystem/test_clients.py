"""httpx, aiohttp and anyio's sockets with a real nginx: a crawler."""

import asyncio
import re

import aiohttp
import anyio
import httpx
import pytest


async def crawl(fetch, pages):
    """Follow all links from the first page with ten workers; return the pages found."""
    queue = asyncio.Queue()
    queue.put_nowait("/index.html")
    seen = {"/index.html"}

    async def work():
        while True:
            path = await queue.get()
            for link in re.findall(r'href="([^"]+)"', await fetch(path)):
                if link not in seen:
                    seen.add(link)
                    queue.put_nowait(link)
            queue.task_done()

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work()) for _ in range(10)]
        await queue.join()
        for worker in workers:
            worker.cancel()
    assert len(seen) == pages + 1


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_aiohttp_crawls(run, nginx, certificate, tls):
    async def main():
        connector = aiohttp.TCPConnector(ssl=certificate.client)
        async with aiohttp.ClientSession(nginx.tls_url if tls else nginx.url, connector=connector) as session:

            async def fetch(path):
                async with session.get(path) as response:
                    assert response.status == 200
                    return await response.text()

            await crawl(fetch, nginx.PAGES)
            async with session.get("/large.bin") as response:
                large = b"".join([chunk async for chunk in response.content.iter_any()])
            assert large == bytes(range(256)) * 4096 * 4
            async with session.get("/teapot") as response:
                assert (response.status, await response.text()) == (418, "short and stout")
            async with session.get("/moved") as response:
                assert response.url.path == "/index.html"
            # Cancelled in the middle: the next request gets a new connection.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), session.get("/slow/large.bin") as response:
                    await asyncio.sleep(1)
            assert await fetch("/page0.html")

    run(main())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_httpx_crawls(run, nginx, certificate, tls):
    async def main():
        base = nginx.tls_url if tls else nginx.url
        async with httpx.AsyncClient(base_url=base, verify=certificate.client, timeout=20) as client:

            async def fetch(path):
                response = await client.get(path)
                assert response.status_code == 200
                return response.text

            await crawl(fetch, nginx.PAGES)
            async with client.stream("GET", "/large.bin") as response:
                large = b"".join([chunk async for chunk in response.aiter_bytes()])
            assert large == bytes(range(256)) * 4096 * 4
            assert (await client.get("/teapot")).status_code == 418
            assert (await client.get("/moved")).headers["location"].endswith("/index.html")

    run(main())


def test_httpx_says_what_is_wrong(run, nginx, certificate, port):
    async def main():
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{port}/")
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(nginx.tls_url)

        async def is_silent(reader, writer):
            await reader.read()
            writer.close()

        async with await asyncio.start_server(is_silent, "127.0.0.1") as server, httpx.AsyncClient() as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout=0.1)

    run(main())


def test_anyio_sockets(run, nginx, certificate):
    async def main():
        stream = await anyio.connect_tcp("localhost", nginx.tls_port, ssl_context=certificate.client)
        async with stream:
            await stream.send(b"GET /teapot HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            received = b""
            with pytest.raises(anyio.EndOfStream):
                while True:
                    received += await stream.receive()
        assert received.endswith(b"short and stout")

    run(main())
