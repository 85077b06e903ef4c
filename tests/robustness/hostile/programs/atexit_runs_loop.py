"""Runs loops while the interpreter ends."""

import asyncio
import atexit


def last():
    async def m():
        await asyncio.sleep(0.001)
        try:
            return await asyncio.to_thread(int, 7)
        except RuntimeError as e:
            return str(e)

    print(asyncio.run(m()))


atexit.register(last)
import threading


def tlast():
    async def m():
        await asyncio.sleep(0.01)
        return 5

    threading.main_thread().join()
    print(asyncio.run(m()))


threading.Thread(target=tlast).start()
print("main over")
