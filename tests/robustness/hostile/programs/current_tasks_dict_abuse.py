"""Changes asyncio's dict of current tasks while tasks run."""

import asyncio
import asyncio as stock
import gc
import sys

if sys.version_info < (3, 14):
    ct = stock.tasks._current_tasks

    async def main():
        loop = asyncio.get_running_loop()
        for i in range(30):
            k = list(ct)
            v = list(ct.values())
            repr(ct)
            asyncio.current_task()
            if i % 5 == 0:
                ct.clear()
            if i % 5 == 1:
                ct[loop] = object()
            if i % 5 == 2:
                ct.pop(loop, None)
            if i % 5 == 3:
                ct[loop] = []
                try:
                    asyncio.current_task()
                except BaseException as e:
                    print(type(e))
                for kk in k:
                    ct.pop(kk, None)
                ct.clear()
                gc.collect()
            try:
                asyncio.current_task()
            except BaseException:
                pass
            await asyncio.sleep(0)
            del k, v
            gc.collect()

        class H:
            def __hash__(s):
                return hash(loop)

            def __eq__(s, o):
                ct.clear()
                gc.collect()
                return False

        for i in range(10):
            try:
                ct[H()] = 1
            except BaseException as e:
                print(type(e))
            try:
                asyncio.current_task()
            except BaseException as e:
                pass
            await asyncio.sleep(0)
        print("alive")

    asyncio.run(main())
