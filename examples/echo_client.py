"""Sends one message to echo_server.py and prints the answer: python echo_client.py MESSAGE"""

import asyncio
import sys


async def main():
    message = sys.argv[1] if len(sys.argv) > 1 else "Hello, World!"
    reader, writer = await asyncio.open_connection("127.0.0.1", 8888)

    print(f"sent     {message!r}")
    writer.write(message.encode())
    await writer.drain()
    writer.write_eof()

    answer = await reader.read()
    print(f"received {answer.decode()!r}")

    writer.close()
    await writer.wait_closed()


asyncio.run(main())
