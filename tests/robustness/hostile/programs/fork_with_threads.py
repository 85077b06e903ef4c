"""Forks while threads run calls, and runs a loop in the child."""

import asyncio
import os
import threading
import warnings

warnings.simplefilter("ignore")


async def main():
    await asyncio.gather(*[asyncio.to_thread(int, 3) for _ in range(8)])
    loop = asyncio.get_running_loop()
    pids = []
    for _i in range(10):
        fs = [loop.run_in_executor(None, int, 5) for _ in range(20)]
        pid = os.fork()
        if not pid:
            try:
                asyncio._set_running_loop(None)

                async def c():
                    return await asyncio.to_thread(int, 9)

                r = asyncio.run(c())
                os._exit(0 if r == 9 else 1)
            except BaseException as e:
                print(type(e), e, flush=True)
                os._exit(2)
        pids.append(pid)
        await asyncio.gather(*fs)
    print([os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, p, 0))[1]) for p in pids])


asyncio.run(main())
