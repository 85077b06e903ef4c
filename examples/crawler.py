"""A crawler.

Fetches 1,000 pages from a local server over 1,000 connections at once, each read to its end.
"""

import asyncio
import resource

PAGES = 1000


async def handle_page(reader, writer):
    request = await reader.readline()
    number = int(request.split()[1].lstrip(b"/"))
    # No page is sent before all requests have arrived, so all connections are open at the same
    # time.
    await everybody_is_here.wait()
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
    writer.write(b"This is page %d.\n" % number * 100)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def fetch(host, port, number):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /%d HTTP/1.0\r\n" % number)
    await everybody_is_here.wait()
    response = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = response.partition(b"\r\n\r\n")
    assert head == b"HTTP/1.0 200 OK", head
    assert body == b"This is page %d.\n" % number * 100, body
    return len(body)


async def main():
    global everybody_is_here
    everybody_is_here = asyncio.Barrier(2 * PAGES)

    # Each connection takes two descriptors, because the server is in the same process.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * PAGES + 100
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    server = await asyncio.start_server(handle_page, "127.0.0.1", 0, backlog=PAGES)
    host, port = server.sockets[0].getsockname()
    async with server:
        sizes = await asyncio.gather(*(fetch(host, port, number) for number in range(PAGES)))

    print(f"{len(sizes)} pages, {sum(sizes)} bytes")


asyncio.run(main())
