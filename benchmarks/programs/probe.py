"""Finds out whether a loop works at all: `python probe.py LOOP` prints its version as JSON, or fails aloud."""

import json
import sys
from typing import Any

from binding import WITH_MODULE, bind


async def main(asyncio: Any, loop_name: str) -> None:
    running = asyncio.get_running_loop()
    if loop_name != "asyncio" and not type(running).__module__.startswith(loop_name):
        raise RuntimeError(f"the running loop is {type(running)!r}, not one of {loop_name}")
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)


def probe(name: str) -> None:
    binding = bind(name, "loop")
    binding.run(main(binding.asyncio, name))
    if name in WITH_MODULE:
        module = bind(name, "module")
        module.run(main(module.asyncio, name))
    python = ".".join(map(str, sys.version_info[:3]))
    print(json.dumps({"python": python, "build": sys.version, "version": binding.version or python}))


if __name__ == "__main__":
    probe(sys.argv[1])
