"""Imports and runs in a subinterpreter."""

import asyncio
import sys

try:
    import _xxsubinterpreters as si
except ImportError:
    try:
        import _interpreters as si
    except ImportError:
        si = None
if si:
    i = si.create()
    r = None
    code = f"import {asyncio.__name__} as asyncio\nasync def m():\n  await asyncio.sleep(0)\n  print('in sub')\naio.run(m())"
    try:
        r = si.run_string(i, code) if hasattr(si, "run_string") else si.exec(i, code)
    except BaseException as e:
        print(type(e).__name__, str(e)[:150])
    print("main alive", str(r)[:200])
    try:
        si.destroy(i)
    except BaseException as e:
        print(type(e).__name__)


async def m():
    await asyncio.sleep(0)
    print("main ok")


asyncio.run(m())
