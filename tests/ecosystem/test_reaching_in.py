"""Tools that use the loop's internals: nest_asyncio, fake clocks, profilers, tracers; packagers."""

import subprocess
import sys

import pytest
from processes import PYTHON, RONDEL

BEGIN = {
    "asyncio": "",
    "factory": "import asyncio, rondel, warnings\n"
    "warnings.simplefilter('ignore', DeprecationWarning)\n"
    "asyncio.set_event_loop_policy(rondel.EventLoopPolicy())\n",
    "installed": "import rondel\nrondel.install()\n",
}
WAYS = pytest.mark.parametrize("begin", BEGIN.values(), ids=BEGIN)


def wanted(package):
    """Skip a test whose package is not available for this interpreter."""
    return pytest.importorskip(package, exc_type=ImportError)


def said(programs, tmp_path, text, *command):
    """Run a program, which must succeed; return its output."""
    file = tmp_path / "program.py"
    file.write_text(text)
    program = programs.start(*(command or PYTHON), file, folder=tmp_path)
    assert program.wait() == 0, program.output
    return program.output.split()


NESTING = """
import asyncio, sys, threading, signal, os
import {package} as nesting

async def inner(n):
    await asyncio.sleep(0.001)
    return n

async def deep(n):
    return 1 + asyncio.run(deep(n - 1)) if n else await inner(0)

async def failing():
    await inner(0)
    raise ValueError

async def handle(reader, writer):
    writer.write(await reader.readline())
    writer.close()

async def ask(address):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"line\\n")
    data = await reader.read()
    writer.close()
    return data

async def main():
    nesting.apply()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert asyncio.run(inner(1)) == 1
    assert loop.run_until_complete(inner(2)) == 2
    assert loop.run_until_complete(asyncio.create_task(inner(3))) == 3
    assert asyncio.run(deep(5)) == 5
    assert await asyncio.gather(*map(inner, range(3))) == [0, 1, 2]
    assert asyncio.current_task() is task
    try:
        asyncio.run(failing())
    except ValueError:
        print("ValueError")
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    assert asyncio.run(ask(address)) == await ask(address) == b"line\\n"
    server.close()
    assert asyncio.run(asyncio.to_thread(int, "5")) == 5
    process = await asyncio.create_subprocess_exec("echo", "hello", stdout=-1)
    assert asyncio.run(process.communicate()) == (b"hello\\n", None)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # not that of the outermost run, which cancels its task
    loop.call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
    try:
        asyncio.run(asyncio.sleep(30))
    except KeyboardInterrupt:
        print("interrupted")
    assert await inner(4) == 4

asyncio.run(main())
assert asyncio.run(inner(5)) == 5
print("done")
"""


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="the way into the loop by a policy is on its way out, and so is nest_asyncio"
)
@pytest.mark.parametrize("package", ["nest_asyncio", "nest_asyncio2"])
@WAYS
def test_nested_runs(programs, tmp_path, begin, package):
    wanted(package)
    program = begin + NESTING.format(package=package)
    assert said(programs, tmp_path, program)[-1] == "done"


VIRTUAL = """
import asyncio, time
import looptime, aiotools, pytest

@pytest.mark.asyncio
@pytest.mark.looptime
async def test_looptime(looptime):
    began = time.monotonic()
    await asyncio.sleep(100)
    assert looptime == 100 and time.monotonic() - began < 10
    await asyncio.to_thread(time.sleep, 0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(50), 20)
    assert looptime == 120

@pytest.mark.asyncio
@pytest.mark.looptime(end=10)
async def test_its_end():
    with pytest.raises(looptime.LoopTimeoutError):
        await asyncio.sleep(100)

@pytest.mark.asyncio
async def test_without():
    began = time.monotonic()
    await asyncio.sleep(0.01)
    assert time.monotonic() - began >= 0.0099

@pytest.mark.asyncio
async def test_aiotools():
    with aiotools.VirtualClock().patch_loop():
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        assert abs(asyncio.get_running_loop().time() - began - 3600) < 0.01
"""


@WAYS
def test_virtual_clocks(programs, tmp_path, begin):
    wanted("looptime"), wanted("aiotools")
    (tmp_path / "conftest.py").write_text(begin)
    file = tmp_path / "test_virtual.py"
    file.write_text(VIRTUAL)
    program = programs.start(*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, folder=tmp_path)
    assert program.wait() == 0, program.output
    assert "4 passed" in program.output


SLOW = """
import asyncio, time
from aiodebug import log_slow_callbacks

slow = []
log_slow_callbacks.enable(0.05, lambda name, seconds: slow.append(name))

async def step():
    time.sleep(0.06)

async def main():
    await asyncio.create_task(step(), name="the-slow-step")
    asyncio.get_running_loop().call_soon(time.sleep, 0.06)
    asyncio.get_running_loop().call_later(0.001, time.sleep, 0.06)
    await asyncio.sleep(0.2)

asyncio.run(main())
assert any("the-slow-step" in name for name in slow), slow
assert sum("sleep()" in name for name in slow) == 2, slow
print("done")
"""


@WAYS
def test_slow_callbacks_are_found(programs, tmp_path, begin):
    wanted("aiodebug")
    assert said(programs, tmp_path, begin + SLOW)[-1] == "done"


TRACED = """
import asyncio
from opentelemetry.instrumentation.asyncio import AsyncioInstrumentor

seen = []
AsyncioInstrumentor.record_process = lambda self, start, attr, span=None, exception=None: seen.append(attr["type"])
AsyncioInstrumentor().instrument()
{begin}

async def work():
    await asyncio.sleep(0)

async def main():
    await asyncio.gather(work(), work())
    await asyncio.create_task(work())
    await asyncio.wait_for(work(), 1)
    await asyncio.to_thread(int)
    async with asyncio.TaskGroup() as group:
        group.create_task(work())

asyncio.run(main())
print(sorted(seen))
"""


@pytest.mark.parametrize("order", ["before", "after"])
@WAYS
def test_tracers_before_and_after(programs, tmp_path, begin, order):
    """opentelemetry's patches of asyncio stay in force, before and after `install()`."""
    wanted("opentelemetry.instrumentation.asyncio")
    text = TRACED.format(begin=begin) if order == "after" else begin + TRACED.format(begin="")
    output = said(programs, tmp_path, text)
    assert "".join(output) == str(["coroutine"] * 5 + ["to_thread"]).replace(" ", "")


DATADOG = """
import ddtrace.auto
{begin}
import asyncio
from ddtrace import tracer

async def child():
    with tracer.trace("child") as span:
        await asyncio.sleep(0.001)
        return span.parent_id

async def main():
    with tracer.trace("root") as root:
        assert await asyncio.create_task(child()) == root.span_id
        assert await asyncio.gather(child(), child()) == [root.span_id] * 2
        async with asyncio.TaskGroup() as group:
            task = group.create_task(child())
        assert task.result() == root.span_id

tracer.enabled = True
asyncio.run(main())
print("done")
"""


@WAYS
def test_datadog(programs, tmp_path, begin):
    wanted("ddtrace")
    assert "done" in said(programs, tmp_path, DATADOG.format(begin=begin))


NEW_RELIC = """
import newrelic.agent
newrelic.agent.global_settings().developer_mode = True
newrelic.agent.initialize()
{begin}
import asyncio

application = newrelic.agent.register_application("tests", timeout=10)

async def child(expected):
    with newrelic.agent.FunctionTrace("child") as span:
        await asyncio.sleep(0.001)
        assert newrelic.agent.current_transaction() is expected, "another transaction"
        assert newrelic.agent.current_trace() is span, "another span"
        return span.parent.name

@newrelic.agent.background_task(application=application, name="transaction")
async def main():
    here = newrelic.agent.current_transaction()
    assert here is not None
    with newrelic.agent.FunctionTrace("root"):
        assert await asyncio.create_task(child(here)) == "root"
        assert await asyncio.gather(child(here), child(here)) == ["root"] * 2
        async with asyncio.TaskGroup() as group:
            task = group.create_task(child(here))
        assert task.result() == "root"
        assert await asyncio.wait_for(child(here), 1) == "root"
    return "in a transaction"

async def without():
    return newrelic.agent.current_transaction()

assert asyncio.run(without()) is None
print(asyncio.run(main()))
assert asyncio.run(without()) is None
print("done")
"""


@WAYS
def test_new_relic(programs, tmp_path, begin):
    wanted("newrelic")
    assert said(programs, tmp_path, NEW_RELIC.format(begin=begin))[-1] == "done"


ELASTIC = """
import elasticapm
{begin}
import asyncio

client = elasticapm.Client(service_name="tests", disable_send=True, central_config=False, cloud_provider="none")
elasticapm.instrument()

async def child():
    async with elasticapm.async_capture_span("child") as span:
        await asyncio.sleep(0.001)
        assert elasticapm.traces.execution_context.get_span() is span
        return span.parent.name

async def main():
    client.begin_transaction("request")
    async with elasticapm.async_capture_span("root"):
        assert await asyncio.create_task(child()) == "root"
        assert await asyncio.gather(child(), child()) == ["root"] * 2
        async with asyncio.TaskGroup() as group:
            task = group.create_task(child())
        assert task.result() == "root"
        async with elasticapm.async_capture_span("sleeping") as span:
            await asyncio.tasks.sleep(0.001)
    # Theirs, four of children, and the one of the tool's own around asyncio.tasks.sleep.
    assert client.end_transaction("name", "result")._span_counter == 7

asyncio.run(main())
client.close()
print("done")
"""


@WAYS
def test_elastic(programs, tmp_path, begin):
    wanted("elasticapm")
    assert said(programs, tmp_path, ELASTIC.format(begin=begin))[-1] == "done"


SENTRY = """
import asyncio
import sentry_sdk
from sentry_sdk.integrations.asyncio import AsyncioIntegration, enable_asyncio_integration

events = []

async def failing():
    raise ValueError("reported")

async def main():
    integrations, address = [AsyncioIntegration()], "http://key@127.0.0.1:9/1"
    sentry_sdk.init(address, integrations=integrations, before_send=lambda event, hint: events.append(event))
    enable_asyncio_integration()
    assert asyncio.get_running_loop().get_task_factory()._is_sentry_task_factory
    task = asyncio.create_task(failing())
    await asyncio.wait([task])
    assert isinstance(task.exception(), ValueError)

asyncio.run(main())
assert any("reported" in str(event.get("exception")) for event in events)
print("done")
"""


@WAYS
def test_sentry(programs, tmp_path, begin):
    wanted("sentry_sdk")
    assert said(programs, tmp_path, begin + SENTRY)[-1] == "done"


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import time
{begin}
import asyncio, gevent

ticks = []

def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.005)

async def main():
    gevent.spawn(tick)
    assert await asyncio.to_thread(lambda: time.sleep(0.05) or 5) == 5
    assert await asyncio.get_running_loop().run_in_executor(None, len, "four") == 4
    await asyncio.sleep(0.05)
    assert len(ticks) > 5

    async def handle(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"line\\n")
    assert await reader.read() == b"line\\n"
    writer.close()
    server.close()
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(5)))

asyncio.run(main())
print("done")
"""


@WAYS
def test_gevent(programs, tmp_path, begin):
    wanted("gevent")
    assert said(programs, tmp_path, GREENLETS.format(begin=begin))[-1] == "done"


CHILDREN = """
import asyncio, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def kind(_=None):
    async def main():
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return asyncio.run(main())

def grandchild(method):
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        return pool.submit(kind).result()

if __name__ == "__main__":
    for method in ("spawn", "forkserver", "fork"):
        print(grandchild(method))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        print(pool.submit(grandchild, "spawn").result())
"""


@pytest.mark.parametrize(("command", "loop"), [(PYTHON, "asyncio"), (RONDEL, "rondel")], ids=["python", "rondel"])
def test_children_of_the_command(programs, tmp_path, command, loop):
    assert said(programs, tmp_path, CHILDREN, *command) == [loop] * 4


@pytest.mark.timeout(330)
def test_a_packed_program(programs, tmp_path):
    """By the package's hook, PyInstaller finds the imports of the extension module."""
    wanted("PyInstaller")
    file = tmp_path / "program.py"
    file.write_text(
        "import rondel\nrondel.install()\nimport asyncio, ssl\n"
        "class Foreign:\n    def __await__(self):\n        yield\n        return 1\n"
        "async def main():\n"
        "    assert await asyncio.wait_for(Foreign(), 1) == 1\n"
        "    assert await asyncio.to_thread(len, 'four') == 4\n"
        "    print(type(asyncio.get_running_loop()).__name__)\n"
        "asyncio.run(main())\n"
    )
    command = ("-m", "PyInstaller", "--onedir", "--noconfirm", "--log-level", "WARN", file)
    built = subprocess.run(
        [*PYTHON, *map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert built.returncode == 0, built.stderr
    program = programs.start(tmp_path / "dist" / "program" / "program", folder=tmp_path)
    assert program.wait() == 0, program.output
    assert program.output.split() == ["EventLoop"]
