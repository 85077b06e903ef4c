"""Debug mode: its checks, its warnings and their texts."""

import asyncio
import contextlib
import gc
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

WRONG_THREAD = "Non-thread-safe operation invoked on an event loop other than the current one"


def in_a_thread(body: Callable[[], Any]) -> BaseException | None:
    """Run it in another thread while the loop's thread waits; return what it raised."""
    raised: list[BaseException] = []

    def catching() -> None:
        try:
            body()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=catching)
    thread.start()
    thread.join()
    return raised[0] if raised else None


@pytest.mark.one_mode
@pytest.mark.parametrize("what", ["set_result", "event", "queue", "lock", "cancel", "callback", "done"])
def test_waking_from_another_thread_is_refused(loop, aio, what):
    """Waking a task uses call_soon, which checks the thread."""

    async def main():
        loop.set_debug(True)
        future, event, queue, lock = loop.create_future(), aio.Event(), aio.Queue(), aio.Lock()
        await lock.acquire()
        done = loop.create_future()
        done.set_result(None)

        async def wait_for_future():
            await future

        waits = {"event": event.wait, "queue": queue.get, "lock": lock.acquire}.get(what, wait_for_future)
        task = asyncio.create_task(waits())
        if what == "callback":
            future.add_done_callback(lambda _: None)
        await asyncio.sleep(0.001)
        action = {
            "set_result": lambda: future.set_result(1),
            "event": event.set,
            "queue": lambda: queue.put_nowait(1),
            "lock": lock.release,
            "cancel": future.cancel,
            "callback": lambda: future.set_result(1),
            "done": lambda: done.add_done_callback(print),
        }[what]
        error = in_a_thread(action)
        assert isinstance(error, RuntimeError), error
        assert str(error) == WRONG_THREAD
        task._log_destroy_pending = False  # nothing will wake it

    loop.run_until_complete(main())


@pytest.mark.one_mode
def test_a_task_made_in_another_thread_is_refused(run):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.set_exception_handler(lambda _loop, _context: None)  # the task that did not start is reported

        async def nothing():
            pass

        coroutine = nothing()
        error = in_a_thread(lambda: loop.create_task(coroutine))
        coroutine.close()
        assert isinstance(error, RuntimeError), error
        assert str(error) == WRONG_THREAD

    run(main())


@pytest.mark.one_mode
@pytest.mark.parametrize("method", ["call_soon_threadsafe", "run_in_executor"])
def test_what_other_threads_may_call(run, method):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        called = loop.create_future()
        if method == "call_soon_threadsafe":
            assert in_a_thread(lambda: loop.call_soon_threadsafe(called.set_result, 1)) is None
            assert await called == 1
        else:
            assert await loop.run_in_executor(None, int, "1") == 1

    run(main())


@pytest.mark.one_mode
@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("call_soon", "call_soon"),
        ("call_soon_threadsafe", "call_soon_threadsafe"),
        ("call_later", "call_at"),
        ("call_at", "call_at"),
    ],
)
def test_what_cannot_be_called_back(loop, name, reported):
    loop.set_debug(True)
    first = (0,) if name in ("call_later", "call_at") else ()

    async def coroutine_function():
        pass

    for wrong in (None, 5, "text"):
        with pytest.raises(TypeError) as caught:
            getattr(loop, name)(*first, wrong)
        assert str(caught.value) == f"a callable object was expected by {reported}(), got {wrong!r}"
    coroutine = coroutine_function()
    coroutine.close()
    for wrong in (coroutine, coroutine_function):
        with pytest.raises(TypeError) as caught:
            getattr(loop, name)(*first, wrong)
        assert str(caught.value) == f"coroutines cannot be used with {reported}()"


@pytest.mark.one_mode
def test_slow_transports_are_logged(run, caplog):
    """The text names the callback, like asyncio's handle for a descriptor."""

    class Slow(asyncio.Protocol):
        def connection_made(self, transport):
            time.sleep(0.02)  # the test is about slow callbacks

        def data_received(self, data):
            time.sleep(0.02)
            received.set_result(data)

        def connection_lost(self, exc):
            time.sleep(0.02)
            lost.set_result(exc)

    async def main():
        nonlocal received, lost
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.01
        received, lost = loop.create_future(), loop.create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.create_connection(Slow, sock=ours)
            theirs.send(b"x")
            await received
            transport.close()
            await lost
        await asyncio.sleep(0)

    received = lost = None
    with caplog.at_level(logging.WARNING, "asyncio"):
        run(main())
    texts = [record.getMessage() for record in caplog.records if "Slow" in record.getMessage()]
    texts += [record.getMessage() for record in caplog.records if "Transport" in record.getMessage()]
    for call in ("connection_made(", "._read_ready()", "._call_connection_lost(None)"):
        pattern = rf"Executing <Handle .*{re.escape(call)}.* took \d+\.\d{{3}} seconds"
        assert any(re.fullmatch(pattern, text) for text in texts), (call, texts)


# ---- servers ----


async def connected(address):
    """Connect to a server that closes the connection."""
    reader, writer = await asyncio.open_connection(*address)
    assert await reader.read() == b""
    local = writer.get_extra_info("sockname")
    writer.close()
    await writer.wait_closed()
    return local


class Closing(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.close()


def test_connections_that_are_accepted_are_logged(run, debug, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Closing, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        listening = repr(server)
        with caplog.at_level(logging.DEBUG, "asyncio"):
            local = await connected(address)
        server.close()
        await server.wait_closed()
        return listening, address, local

    class Formatted(logging.Handler):
        def emit(self, record):
            texts.append(record.getMessage())

    texts = []
    handler = Formatted()
    logging.getLogger("asyncio").addHandler(handler)
    try:
        listening, address, local = run(main())
    finally:
        logging.getLogger("asyncio").removeHandler(handler)
    texts = [text for text in texts if "got a new connection" in text]
    if not debug:
        assert texts == []
        return
    (text,) = texts
    server, _, rest = text.partition(" got a new connection from ")
    assert server == listening
    fd = re.search(r"fd=(\d+)", rest.partition(": ")[2])[1]
    assert rest == (
        f"{local!r}: <socket.socket fd={fd}, family={socket.AF_INET!s}, type={socket.SOCK_STREAM!s}, proto=6, "
        f"laddr={address!r}, raddr={local!r}>"
    )


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("kind", ["raises", "is no protocol"])
def test_a_connection_that_comes_to_nothing_is_reported(run, impl, debug, problems, kind):
    """The exception handler gets any error, and the server goes on."""
    made = []

    def factory():
        if kind == "raises":
            raise LookupError("no protocol today")
        made.append(object())
        return made[-1]

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for _ in range(2):
            with socket.create_connection(address) as client:
                client.setblocking(False)
                if impl.is_rondel:
                    # asyncio leaves that to the collector (docs/compatibility.md).
                    assert await loop.sock_recv(client, 1) == b""
                else:
                    await asyncio.sleep(0.02)  # longer than it takes to accept
        server.close()
        if impl.is_rondel:
            # asyncio still counts the failed connection.
            await server.wait_closed()

    run(main())
    if not debug:
        assert problems == []
        return
    assert len(problems) == 2
    for number, context in enumerate(problems):
        assert context["message"] == "Error on transport creation for incoming connection"
        if kind == "raises":
            assert isinstance(context["exception"], LookupError)
            assert set(context) == {"message", "exception"}
        else:
            assert isinstance(context["exception"], AttributeError)
            assert context["protocol"] is made[number]
            assert set(context) == {"message", "exception", "protocol"}
    problems.clear()
    gc.collect()


def test_a_handshake_that_fails_is_reported(run, debug, problems):
    trustme = pytest.importorskip("trustme", reason="certificates are made with trustme (tests/requirements.txt)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    made = []

    def factory():
        made.append(Closing())
        return made[-1]

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"this is no handshake\n" * 10)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())
    if not debug:
        assert problems == []
        return
    (context,) = problems
    assert context["message"] == "Error on transport creation for incoming connection"
    assert isinstance(context["exception"], ssl.SSLError)
    assert context["protocol"] is made[0]
    assert isinstance(context["transport"], asyncio.sslproto._SSLProtocolTransport)
    assert context["transport"].is_closing()
    assert set(context) == {"message", "exception", "protocol", "transport"}


def test_a_handshake_that_the_end_interrupts_is_reported(impl, aio, debug):
    """A task owns the connection until the handshake is over. The program's end cancels it."""
    trustme = pytest.importorskip("trustme", reason="certificates are made with trustme (tests/requirements.txt)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    made, problems = [], []

    def factory():
        made.append(asyncio.Protocol())
        return made[-1]

    async def main(client):
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: problems.append(context))
        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context)
        client.connect(server.sockets[0].getsockname())
        while not made:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # lets the task start to wait
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        server.close()
        return task

    with socket.socket() as client, aio.Runner(debug=debug, loop_factory=impl.new_event_loop) as runner:
        client.settimeout(30)
        task = runner.run(main(client))
        runner.close()
        assert task.done() and not task.cancelled() and task.exception() is None
        assert client.recv(1) == b""
    if not debug:
        assert problems == []
        return
    (context,) = problems
    assert context["message"] == "Error on transport creation for incoming connection"
    assert isinstance(context["exception"], asyncio.CancelledError)
    assert context["protocol"] is made[0]
    assert isinstance(context["transport"], asyncio.sslproto._SSLProtocolTransport)
    assert context["transport"].is_closing()
    assert set(context) == {"message", "exception", "protocol", "transport"}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning", "ignore:unclosed:ResourceWarning")
def test_a_task_factory_that_fails_for_a_handshake_is_reported(run, impl, problems):
    trustme = pytest.importorskip("trustme", reason="certificates are made with trustme (tests/requirements.txt)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    def factory(loop, coro, **kwds):
        raise LookupError("no task today")

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
        loop.set_task_factory(factory)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.setblocking(False)
            while not problems:
                await asyncio.sleep(0.001)
            loop.set_task_factory(None)
            if impl.is_rondel:
                # asyncio leaves that to the collector (docs/compatibility.md).
                assert await loop.sock_recv(client, 1) == b""
        server.close()
        if impl.is_rondel:
            await server.wait_closed()

    run(main())
    (context,) = problems
    assert context["message"].startswith("Exception in callback BaseSelectorEventLoop._accept_connection(")
    assert isinstance(context["exception"], LookupError)
    problems.clear()
    gc.collect()


def test_a_slow_factory_is_logged(run, impl, debug, caplog):
    def factory():
        time.sleep(0.05)
        return Closing()

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        loop.slow_callback_duration = 0.04
        await connected(server.sockets[0].getsockname())
        loop.slow_callback_duration = 60
        server.close()
        await server.wait_closed()

    run(main())
    texts = [text for text in caplog.messages if text.startswith("Executing ")]
    if debug:
        assert any("_accept_connection" in text and " took 0.0" in text for text in texts), texts
    else:
        assert texts == []


@pytest.mark.one_mode
def test_switched_while_running(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert sys.get_coroutine_origin_tracking_depth() == 0
        loop.set_debug(True)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        assert sys.get_coroutine_origin_tracking_depth() > 0
        handle = loop.call_soon(int)
        assert handle._source_traceback[-1].name == "main"
        loop.set_debug(False)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        assert sys.get_coroutine_origin_tracking_depth() == 0
        assert loop.call_soon(int)._source_traceback is None

    run(main())


def test_contexts_say_where_it_was_made(run, debug):
    """The exception handler's context has the traceback of the object's creation."""

    async def main():
        contexts = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: contexts.append(context))

        def fail():
            raise ValueError("callback")

        async def fail_in_task():
            raise ValueError("task")

        loop.call_soon(fail)
        loop.call_later(0, fail)
        await asyncio.sleep(0.01)
        task = asyncio.create_task(fail_in_task())
        await asyncio.wait([task])
        del task
        future = loop.create_future()
        future.set_exception(ValueError("future"))
        del future
        gc.collect()
        return contexts

    contexts = run(main())
    messages = [re.sub(r" at .*| <.*|callback .*", "", context["message"]) for context in contexts]
    assert messages == [
        "Exception in ",
        "Exception in ",
        "Task exception was never retrieved",
        "Future exception was never retrieved",
    ]
    keys = [{"message", "exception", "handle"}] * 2 + [{"message", "exception", "future"}] * 2
    for context, expected in zip(contexts, keys, strict=True):
        assert set(context) == expected | ({"source_traceback"} if debug else set())
        if debug:
            assert any(frame.name == "main" for frame in context["source_traceback"])


def test_the_default_handlers_text(loop, caplog, debug):
    loop.set_exception_handler(None)
    loop.call_exception_handler({})
    loop.call_exception_handler({"message": "text", "z": 1, "future": "F", "exception": ValueError("why")})
    loop.call_exception_handler({"message": "odd", "exception": 5})
    loop.set_exception_handler(lambda _loop, _context: 1 / 0)
    loop.call_exception_handler({"message": "again"})
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "Unhandled exception in event loop",
        "text\nfuture: 'F'\nz: 1",
        "Exception in default exception handler",  # the exception is none
        "Unhandled error in exception handler\ncontext: {'message': 'again'}",
    ]
    assert caplog.records[1].exc_info[0] is ValueError


NEVER_AWAITED = """
import sys, warnings, gc
MODULE = sys.argv[1]
if MODULE == "rondel":
    import rondel as asyncio
else:
    import asyncio

def show(message, category, filename, lineno, file=None, line=None):
    print(category.__name__, lineno, str(message).splitlines()[0])

warnings.showwarning = show

async def own():
    pass

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    own()
    asyncio.sleep(1)
    gc.collect()

asyncio.run(main())
"""


@pytest.mark.parametrize("options", [[], ["-X", "dev"]], ids=["plain", "dev"])
def test_what_was_never_awaited(aio, options):
    """A native awaitable that was never awaited is reported like asyncio's coroutine."""
    process = subprocess.run(
        [sys.executable, *options, "-c", NEVER_AWAITED, aio.__name__], capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines() == [
        "RuntimeWarning 19 coroutine 'own' was never awaited",
        "RuntimeWarning 20 coroutine 'sleep' was never awaited",
    ]
    assert not process.stderr


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ([], {}, False),
        ([], {"PYTHONASYNCIODEBUG": "1"}, True),
        ([], {"PYTHONASYNCIODEBUG": ""}, False),
        (["-E"], {"PYTHONASYNCIODEBUG": "1"}, False),
        (["-X", "dev"], {}, True),
        ([], {"PYTHONDEVMODE": "1"}, True),
    ],
)
def test_how_it_is_switched_on(impl, options, environment, expected):
    module = "rondel" if impl.is_rondel else "asyncio"
    setup = f"import sys; sys.path[:0] = {sys.path!r}; import {module} as module; "
    program = setup + "loop = module.new_event_loop(); print(loop.get_debug()); loop.close()"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONASYNCIO", "PYTHONDEV"))}
    process = subprocess.run(
        [sys.executable, *options, "-c", program], env=environ | environment, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == str(expected)


@pytest.mark.filterwarnings("always")
def test_what_is_left_open_warns(run, aio, debug):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            transport.pause_reading()
            del transport, _
            gc.collect()
            other = aio.new_event_loop()
            other_text = repr(other)
            del other
            gc.collect()
        theirs.close()
        assert ours.fileno() == -1
        texts = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
        assert [text.partition(" <")[0] for text in texts if "socket.socket" not in text] == [
            "unclosed transport",
            "unclosed event loop",
        ]
        assert f"unclosed event loop {other_text}" in texts

    run(main())
