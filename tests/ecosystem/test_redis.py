"""redis-py on a real Redis."""

import asyncio

import pytest
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def test_redis(run, redis_server):
    async def main():
        # 200 connections at once, on a busy machine; redis-py's own limit is 5 s.
        async with redis.from_url(redis_server.url, max_connections=300, socket_timeout=60) as client:
            await client.flushdb()
            large = bytes(range(256)) * 4000
            await client.set("large", large)
            assert await client.get("large") == large
            counts = await asyncio.gather(*(client.incr("count") for _ in range(200)))
            assert sorted(counts) == list(range(1, 201))
            async with client.pipeline(transaction=True) as pipe:
                for number in range(500):
                    pipe.set(f"key {number}", number)
                assert await pipe.execute() == [True] * 500
            assert len([key async for key in client.scan_iter("key *", count=50)]) == 500
            with pytest.raises(redis.ResponseError):
                await client.lpush("count", 1)
            async with client.lock("lock", timeout=20):
                assert await client.lock("lock", blocking=False).acquire() is False

            # One task waits in the server, one is woken, and one has a timeout.
            waiting = asyncio.create_task(client.blpop("queue", timeout=20))
            await asyncio.sleep(0)
            await client.rpush("queue", "item")
            assert await waiting == (b"queue", b"item")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.blpop("queue", timeout=20), 0.05)
            assert await client.ping()

            async with client.pubsub() as subscriber:
                await subscriber.subscribe("news")
                assert (await subscriber.get_message(timeout=20))["type"] == "subscribe"
                for number in range(10):
                    await client.publish("news", number)
                heard = [(await subscriber.get_message(timeout=20))["data"] for _ in range(10)]
                assert heard == [b"%d" % number for number in range(10)]

    run(main())


def test_a_connection_that_the_server_ends(run, redis_server):
    async def main():
        async with redis.from_url(
            redis_server.url, single_connection_client=True, retry=Retry(NoBackoff(), 0)
        ) as client:
            mine = await client.client_id()
            async with redis.from_url(redis_server.url) as other:
                await other.client_kill_filter(_id=mine)
            with pytest.raises(redis.ConnectionError):
                await client.ping()
            assert await client.ping()  # it connects again
            assert await client.client_id() != mine

    run(main())
