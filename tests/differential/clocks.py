"""Loops with artificial clocks, asyncio's and ours, and how to run a program on them to completion.

* `virtual`: time stands still while a callback is ready, then jumps to the next deadline. Rondel's
  engine has such a clock; asyncio's loop gets one by a selector that never waits.
* `manual`: `loop.time` is replaced on the instance, and the driver of the program advances the time.
  The loop is never idle, so that turns can be counted.
* `turns`: the loop is unchanged. No timer is ever due; time is the number of turns.
"""

import asyncio
import selectors

from programs import FAR, ROUND

START = 1024.0
#: Turns between two steps of the manual clock, and the number of steps: more than a program takes.
PACE, MOVES = 5, 70
TURNS = 120
CLOCKS = ("virtual", "manual", "turns")


class _NeverWaits(selectors.DefaultSelector):
    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self.jump()
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with a virtual clock."""

    def __init__(self):
        selector = _NeverWaits()
        selector.jump = self.jump
        self.now = START
        super().__init__(selector)

    def time(self):
        return self.now

    def jump(self):
        assert self._scheduled, "nothing will ever happen"
        self.now = self._scheduled[0].when()

    def close(self):
        if not self.is_closed():
            del self._selector.jump  # breaks a reference cycle
        super().close()


class Clock:
    """Creates loops, and tells when the driver may go on."""

    def __init__(self, kind, of_rondel):
        self.kind, self.of_rondel = kind, of_rondel
        self.turn = 0
        self.loop = None
        self.now = START

    def make_loop(self):
        if self.of_rondel:
            import rondel

            loop = rondel.EventLoop(virtual_start=START if self.kind == "virtual" else None)
        else:
            loop = JumpingLoop() if self.kind == "virtual" else asyncio.SelectorEventLoop()
        if self.kind == "manual":
            loop.time = lambda: self.now
        self.loop = loop
        return loop

    def stamp(self):
        """Return the time that the trace shows with each event."""
        return self.loop.time() if self.kind == "virtual" else (self.turn, self.now)

    def delay(self, timer):
        """Return a timer's delay in seconds, or a value that means no timer."""
        if timer is None or isinstance(timer, int):
            return timer
        if timer.delay and self.kind == "turns":
            return 3600 + timer.delay
        return timer.delay

    async def exhaust(self, aio):
        """Wait until nothing more will happen without the driver."""
        if self.kind == "virtual":
            await aio.sleep(FAR)
        elif self.kind == "manual":
            for _ in range(MOVES):
                self.now += ROUND
                await self.turns(aio, PACE)
        else:
            await self.turns(aio, TURNS)

    async def settle(self, aio):
        """Like `exhaust`, after everything was cancelled."""
        if self.kind == "virtual":
            await aio.sleep(FAR)
        else:
            await self.turns(aio, 40)

    async def turns(self, aio, count):
        for _ in range(count):
            self.turn += 1
            await aio.sleep(0)
