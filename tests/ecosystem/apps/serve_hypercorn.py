"""hypercorn in a program that runs the loop itself: `serve_hypercorn.py PORT`."""

import asyncio
import signal
import sys

import rondel
from asgi import app
from hypercorn.asyncio import serve
from hypercorn.config import Config


async def main():
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    await serve(app, config, shutdown_trigger=end.wait)


rondel.run(main())
