"""asyncpg and psycopg on a real PostgreSQL."""

import asyncio

import asyncpg
import psycopg
import psycopg_pool
import pytest


def test_asyncpg(run, postgresql):
    async def main():
        async with asyncpg.create_pool(postgresql.dsn, min_size=2, max_size=5) as pool:
            await pool.execute("DROP TABLE IF EXISTS things; CREATE TABLE things (id int PRIMARY KEY, data bytea)")

            async def put(number):
                await pool.execute("INSERT INTO things VALUES ($1, $2)", number, bytes([number]) * 1000 * number)

            await asyncio.gather(*map(put, range(100)))
            rows = await pool.fetch("SELECT id, data FROM things ORDER BY id")
            assert [(row["id"], row["data"]) for row in rows] == [(n, bytes([n]) * 1000 * n) for n in range(100)]
            async with pool.acquire() as connection:
                with pytest.raises(asyncpg.UniqueViolationError):
                    async with connection.transaction():
                        await connection.execute("DELETE FROM things WHERE id > 50")
                        await connection.execute("INSERT INTO things VALUES (1, '')")
                assert await connection.fetchval("SELECT count(*) FROM things") == 100
                async with connection.transaction():
                    seen = [
                        row["id"] async for row in connection.cursor("SELECT id FROM things ORDER BY id", prefetch=7)
                    ]
                assert seen == list(range(100))
                copied = await connection.copy_records_to_table("things", records=[(n, b"") for n in range(200, 5200)])
                assert copied == "COPY 5000"
                # Cancelling a query cancels it in the server, and the connection can be used again.
                with pytest.raises(TimeoutError):
                    await connection.fetch("SELECT pg_sleep(30)", timeout=0.05)
                assert await connection.fetchval("SELECT 1") == 1
                task = asyncio.create_task(connection.fetch("SELECT pg_sleep(30)"))
                await asyncio.sleep(0.05)  # until the server has begun with it
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await connection.fetchval("SELECT 2") == 2
            heard = asyncio.get_running_loop().create_future()
            async with pool.acquire() as connection:
                await connection.add_listener("news", lambda _c, _pid, _channel, text: heard.set_result(text))
                await pool.execute("SELECT pg_notify('news', 'hello')")
                assert await asyncio.wait_for(heard, 20) == "hello"
                await connection.reset()
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await asyncpg.connect(postgresql.dsn.replace("/postgres", "/absent"))

    run(main())


def test_psycopg(run, postgresql):
    async def main():
        async with await psycopg.AsyncConnection.connect(postgresql.dsn, autocommit=True) as connection:
            async with connection.cursor() as cursor:
                await cursor.execute("SELECT generate_series(1, 20000)")
                assert [row[0] async for row in cursor] == list(range(1, 20001))
                await cursor.execute("DROP TABLE IF EXISTS copied; CREATE TABLE copied (id int, text text)")
                async with cursor.copy("COPY copied FROM STDIN") as copy:
                    for number in range(1000):
                        await copy.write_row((number, "x" * 100))
                await cursor.execute("SELECT count(*) FROM copied")
                assert await cursor.fetchone() == (1000,)
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await cursor.execute("SELECT 1 / 0")
            async with connection.pipeline():
                cursors = [await connection.execute("SELECT %s::int", [number]) for number in range(50)]
            assert [(await cursor.fetchone())[0] for cursor in cursors] == list(range(50))
            task = asyncio.create_task(connection.execute("SELECT pg_sleep(30)"))
            await asyncio.sleep(0.05)  # until the server has begun with it
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await connection.execute("LISTEN news")
            await connection.execute("NOTIFY news, 'hello'")
            async for notice in connection.notifies(timeout=20, stop_after=1):
                assert notice.payload == "hello"

        async with psycopg_pool.AsyncConnectionPool(postgresql.dsn, min_size=2, max_size=4) as pool:

            async def ask(number):
                async with pool.connection() as pooled:
                    return await (await pooled.execute("SELECT %s::int", [number])).fetchone()

            assert await asyncio.gather(*map(ask, range(50))) == [(number,) for number in range(50)]

    run(main())
