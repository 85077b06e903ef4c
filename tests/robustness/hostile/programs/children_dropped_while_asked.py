"""Puts objects into a gather's list of children that change the list when they are called."""

import asyncio
import gc


class Child:
    def __init__(self, kind, children):
        self.kind, self.children = kind, children

    def change(self):
        self.children[:] = self.children[1:] if self.kind == "shift" else [] if self.kind == "clear" else self.children
        if self.kind == "grow" and len(self.children) < 8:
            self.children.append(Child("grow", self.children))
        gc.collect()
        return

    def cancelled(self):
        self.change()
        return self.kind == "cancelled"

    def exception(self):
        self.change()
        return KeyError(self.kind) if self.kind == "fails" else None

    def result(self):
        self.change()
        return self.kind

    _cancel_message = "message"


async def main():
    loop = asyncio.get_running_loop()
    for kind in ("shift", "clear", "grow", "same", "cancelled", "fails"):
        for places in ((0,), (1,), (0, 1, 2), (3,)):
            futures = [loop.create_future() for _ in range(4)]
            gathering = asyncio.gather(*futures, return_exceptions=True)
            for place in places:
                gathering._children[place] = Child(kind, gathering._children)
            for future in futures:
                future.set_result("own")
            del future, futures
            try:
                print(kind, places, await gathering)
            except BaseException as e:
                print(kind, places, type(e).__name__, e)


asyncio.run(main())
