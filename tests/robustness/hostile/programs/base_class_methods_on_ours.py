"""Calls all methods of asyncio's Future and Task on instances of any kind."""

import _asyncio
import asyncio
import gc
import os
import sys
import warnings

warnings.simplefilter("ignore")


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda l, c: None)

    async def c():
        await asyncio.sleep(0.001)

    for cls in (_asyncio.Future, _asyncio.Task):
        for _name, m in sorted(vars(cls).items()):
            if not callable(m) and not hasattr(m, "__get__"):
                continue
            for mk in (lambda: loop.create_future(), lambda: asyncio.create_task(c())):
                for args in ((), (1,), (print,), (ValueError(),), (None,)):
                    o = mk()
                    if not isinstance(o, cls):
                        continue
                    try:
                        r = m(o, *args) if callable(m) else m.__get__(o)
                    except BaseException as e:
                        pass
                    try:
                        if hasattr(m, "__set__") and not callable(m):
                            m.__set__(o, args[0] if args else True)
                    except BaseException:
                        pass
                    try:
                        repr(o)
                    except BaseException:
                        pass
                    try:
                        o.cancel()
                    except BaseException:
                        pass
            await asyncio.sleep(0)
    for _i in range(5):
        await asyncio.sleep(0.005)
    gc.collect()
    print("alive")


import logging

logging.disable()
try:
    asyncio.run(main())
except BaseException as e:
    print(type(e).__name__, e)
sys.stdout.flush()
os._exit(0)
