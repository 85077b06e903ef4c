"""Uses one loop's futures and timers from several threads without any lock."""

import asyncio
import random
import threading


async def main():
    loop = asyncio.get_running_loop()
    stop = False
    loop.set_exception_handler(lambda l, c: None)
    futs = [loop.create_future() for _ in range(50)]

    def w():
        k = 0
        while not stop:
            k += 1
            try:
                c = random.randrange(9)
                if c == 0:
                    loop.call_soon(int)
                elif c == 1:
                    loop.call_later(random.random() * 0.01, int).cancel()
                elif c == 2:
                    f = random.choice(futs)
                    f.add_done_callback(int)
                elif c == 3:
                    f = random.choice(futs)
                    if not f.done():
                        f.set_result(1)
                elif c == 4:
                    futs[random.randrange(50)] = loop.create_future()
                elif c == 5:
                    asyncio.all_tasks(loop)
                elif c == 6:
                    random.choice(futs).cancel()
                elif c == 7:
                    random.choice(futs).remove_done_callback(int)
                else:
                    loop.call_later(0.001, int)
            except Exception:
                pass

    ts = [threading.Thread(target=w) for _ in range(3)]
    for t in ts:
        t.start()

    async def a():
        try:
            await random.choice(futs)
        except BaseException:
            pass

    for _i in range(60):
        ts2 = [asyncio.create_task(a()) for _ in range(5)]
        await asyncio.sleep(0.001)
        for t in ts2:
            t.cancel()
    stop = True
    for t in ts:
        t.join()
    print("alive")


asyncio.run(main())
