"""The type stubs match the package, and programs that type-check with asyncio do so with Rondel."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """\
import rondel as asyncio

async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data: bytes = await reader.readuntil(b"\\n")
    writer.write(data)
    await writer.drain()
    writer.close()
    await writer.wait_closed()

async def double(number: int) -> int:
    await asyncio.sleep(0.1)
    return 2 * number

async def main() -> int:
    task: asyncio.Task[int] = asyncio.create_task(double(1), name="double")
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, "done")
    handle_: asyncio.TimerHandle = asyncio.get_running_loop().call_later(1.0, print, "late")
    handle_.cancel()
    async with asyncio.TaskGroup() as group, asyncio.timeout(1.0):
        in_group: asyncio.Task[int] = group.create_task(double(2))
    first, second = await asyncio.gather(double(3), double(4))
    server: asyncio.Server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        await handle(reader, writer)
    process = await asyncio.create_subprocess_exec("true", stdout=asyncio.subprocess.PIPE)
    await process.wait()
    try:
        await asyncio.wait_for(future, None)
    except asyncio.CancelledError:
        return await task
    return first + second + in_group.result()

result: int = asyncio.run(main())
loop: asyncio.EventLoop = asyncio.EventLoop(virtual_start=0.0)
loop.run_until_complete(main())
with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
    result = runner.run(main())
asyncio.install()
asyncio.uninstall()
"""


def mypy(*arguments: str, cwd: Path = ROOT) -> str:
    """Return the report of a mypy tool, which is empty if it found nothing."""
    process = subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    return "" if process.returncode == 0 else process.stdout + process.stderr


@pytest.mark.timeout(240)
def test_the_stubs_describe_what_is_there():
    allowlist = str(ROOT / "tests" / "stubtest-allowlist.txt")
    options = ("--allowlist", allowlist, "--ignore-unused-allowlist")
    assert mypy("mypy.stubtest", *options, "rondel") == ""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("module", ["rondel", "asyncio"])
def test_a_program_is_well_typed(tmp_path, module):
    program = PROGRAM.replace("import rondel as asyncio", f"import {module} as asyncio")
    if module == "asyncio":
        # What asyncio does not have comes from Rondel: both can be used in one program.
        program = program.replace("asyncio.EventLoop", "rondel.EventLoop").replace("asyncio.install", "rondel.install")
        program = "import rondel\n" + program.replace("asyncio.uninstall", "rondel.uninstall")
    (tmp_path / "program.py").write_text(program)
    assert mypy("mypy", "--strict", "--config-file=", "program.py", cwd=tmp_path) == ""


@pytest.mark.timeout(240)
def test_mistakes_are_found(tmp_path):
    program = PROGRAM + "number: str = asyncio.run(main())\nasyncio.no_such_name\n"
    (tmp_path / "program.py").write_text(program)
    report = mypy("mypy", "--strict", "--config-file=", "program.py", cwd=tmp_path)
    assert "[assignment]" in report
    assert "[attr-defined]" in report
    assert "Found 2 errors" in report
