"""dask.distributed: a scheduler and workers in several processes, all on Rondel's loop."""

import distributed
import pytest
from dask_program import where
from processes import PYTHON, RONDEL, free_port


def test_a_cluster_in_one_program(programs, tmp_path):
    """`rondel.install()` at the beginning of the program, which worker processes run as well."""
    program = programs.start(*PYTHON, "dask_program.py")
    assert program.wait() == 0, program.output
    assert "sum: 332833500" in program.output
    assert "loops: ['rondel._event_loop.EventLoop'] in 3 processes" in program.output


def test_processes_by_the_command(programs, tmp_path):
    """`python -m rondel -m distributed.cli…`, for several machines."""
    port = free_port()
    local = ("--host", "127.0.0.1", "--no-dashboard")
    programs.serve(port, *RONDEL, "-m", "distributed.cli.dask_scheduler", *local, "--port", port)
    for name in ("one", "two"):
        options = ("--no-nanny", "--nthreads", "1", "--name", name, "--local-directory", tmp_path)
        programs.start(*RONDEL, "-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", *local, *options)
    with distributed.Client(f"tcp://127.0.0.1:{port}", timeout=30) as client:
        client.wait_for_workers(2, timeout=30)
        futures = client.map(lambda x: x * x, range(100), pure=False)
        assert client.submit(sum, futures).result(30) == sum(x * x for x in range(100))
        # Workers send data to each other.
        data = client.submit(bytes, 5_000_000, workers="one")
        assert client.submit(len, data, workers="two").result(30) == 5_000_000
        loops = [loop for loop, _pid in [*client.run(where).values(), client.run_on_scheduler(where)]]
        assert loops == ["rondel._event_loop.EventLoop"] * 3
        with pytest.raises(ZeroDivisionError):
            client.submit(lambda: 1 / 0).result(30)
