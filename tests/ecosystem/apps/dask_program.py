"""A computation on a local cluster of two worker processes, all on Rondel."""

import asyncio
import os

if __name__ in ("__main__", "__mp_main__"):  # the second is its name in a worker process
    import rondel

    rondel.install()

from distributed import Client, LocalCluster


async def where():
    loop = type(asyncio.get_running_loop())
    return f"{loop.__module__}.{loop.__qualname__}", os.getpid()


def main():
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        squares = client.map(lambda x: x * x, range(1000), pure=False)
        print("sum:", client.submit(sum, squares).result(50))
        found = [*client.run(where).values(), client.run_on_scheduler(where)]
        loops, processes = zip(*found, strict=True)
        print("loops:", sorted(set(loops)), "in", len(set(processes)), "processes")


if __name__ == "__main__":
    main()
