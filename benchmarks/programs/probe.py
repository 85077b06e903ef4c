"""Finds out whether a loop works at all: `python probe.py LOOP` prints its version as JSON, or fails aloud.

A loop whose module does not work in asyncio's place, though the loop itself does, says so under `module_error`.
"""

import json
import sys
from typing import Any

from binding import WITH_MODULE, bind


async def main(asyncio: Any, loop_name: str) -> None:
    running = asyncio.get_running_loop()
    # aiofastnet changes the loops of others; `asyncio-beside-rondel` is asyncio's.
    own = not loop_name.startswith(("asyncio", "aiofastnet"))
    if own and not type(running).__module__.startswith(loop_name):
        raise RuntimeError(f"the running loop is {type(running)!r}, not one of {loop_name}")
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)


def probe(name: str) -> None:
    binding = bind(name, "loop")
    binding.run(main(binding.asyncio, name))
    found = {"build": sys.version, "version": binding.version or sys.version.split()[0]}
    if name in WITH_MODULE:
        try:
            module = bind(name, "module")
            module.run(main(module.asyncio, name))
        except Exception as error:
            found["module_error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    probe(sys.argv[1])
