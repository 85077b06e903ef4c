"""Programs that ask a server which is not measured: `python clients.py --loop NAME --form loop --case CASE --port N --seconds S`.

Prints the figures of this process, as `in_process.py` does: an operation is one query or request, and its answer is checked.
"""

import argparse
import json
import sys
from typing import Any

from binding import bind
from in_process import check, drive

#: Connections, or tasks that ask, at a time.
AT_ONCE = 10
#: Pages of the site that nginx serves.
PAGES = 200


async def _by_tasks(asyncio: Any, count: int, ask: Any) -> int:
    """`count` operations by so many tasks; `ask(worker, number)` does one and returns whether its answer was right."""
    each = count // AT_ONCE + 1

    async def work(worker: int) -> int:
        return sum([await ask(worker, number) for number in range(each)])

    right = sum(await asyncio.gather(*map(work, range(AT_ONCE))))
    check(right == each * AT_ONCE, f"{right} right answers of {each * AT_ONCE}")
    return right


async def asyncpg(port: int, seconds: float, asyncio: Any) -> dict[str, float]:
    """`SELECT 1`, and a number, on ten connections."""
    import asyncpg

    dsn = f"postgresql://rondel@127.0.0.1:{port}/postgres"
    connections = [await asyncpg.connect(dsn) for _ in range(AT_ONCE)]

    async def ask(worker: int, number: int) -> bool:
        return bool(await connections[worker].fetchval("SELECT 1 + $1::int", number) == number + 1)

    async def case(asyncio: Any, count: int) -> int:
        return await _by_tasks(asyncio, count, ask)

    figures = await drive(asyncio, case, seconds)
    for connection in connections:
        await connection.close()
    return figures


async def redis(port: int, seconds: float, asyncio: Any) -> dict[str, float]:
    """`GET` of a value of 100 bytes by ten tasks, on a connection each."""
    import redis.asyncio

    clients = [redis.asyncio.Redis(port=port, single_connection_client=True) for _ in range(AT_ONCE)]
    for worker, client in enumerate(clients):
        await client.set(f"key {worker}", b"%010d" % worker * 10)

    async def ask(worker: int, _number: int) -> bool:
        return bool(await clients[worker].get(f"key {worker}") == b"%010d" % worker * 10)

    async def case(asyncio: Any, count: int) -> int:
        return await _by_tasks(asyncio, count, ask)

    figures = await drive(asyncio, case, seconds)
    for client in clients:
        await client.aclose()
    return figures


async def redis_pipeline(port: int, seconds: float, asyncio: Any) -> dict[str, float]:
    """Pipelines of a hundred `GET`s; an operation is one of them."""
    import redis.asyncio

    client = redis.asyncio.Redis(port=port, single_connection_client=True)
    await client.set("key", b"value")

    async def case(asyncio: Any, count: int) -> int:
        rounds = count // 100 + 1
        for _ in range(rounds):
            pipeline = client.pipeline(transaction=False)
            for _ in range(100):
                pipeline.get("key")
            check(await pipeline.execute() == [b"value"] * 100, "a wrong answer")
        return rounds * 100

    figures = await drive(asyncio, case, seconds)
    await client.aclose()
    return figures


async def aiohttp(port: int, seconds: float, asyncio: Any) -> dict[str, float]:
    """Ten tasks that fetch nginx's pages over connections that are kept."""
    import aiohttp

    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def ask(worker: int, number: int) -> bool:
            page = (worker * 31 + number) % PAGES
            async with session.get(f"/page{page}.html") as response:
                text = await response.text()
            return response.status == 200 and f"<title>{page}</title>" in text

        async def case(asyncio: Any, count: int) -> int:
            return await _by_tasks(asyncio, count, ask)

        return await drive(asyncio, case, seconds)


CASES = {"asyncpg": asyncpg, "redis": redis, "redis-pipeline": redis_pipeline, "aiohttp-client": aiohttp}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--form", choices=["loop", "module"], required=True)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    binding = bind(options.loop, options.form)
    figures = binding.run(CASES[options.case](options.port, options.seconds, binding.asyncio))
    print(json.dumps(figures), flush=True)
    # The harness reads this process's memory before it closes our input.
    sys.stdin.read()


if __name__ == "__main__":
    main()
