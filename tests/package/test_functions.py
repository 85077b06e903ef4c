"""Functions and methods have the kind of asyncio's: coroutine functions, Python or C functions.

Each public name of the running asyncio is compared with Rondel's.
"""

import asyncio
import contextvars
import copy
import functools
import inspect
import linecache
import pickle
import pydoc
import sys
from asyncio import selector_events, sslproto, unix_events
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any
from unittest import mock

import pytest
import rondel
from rondel._tls import SSLTransport

OWN_NAMES = {"EventLoop", "EventLoopPolicy", "install", "uninstall"}
SPECIAL = ("__init__", "__aenter__", "__aexit__", "__aiter__", "__anext__")

# The differences, with reasons.
EXPECTED = {
    "EventLoop.__init__": "there is no selector to be given",
    "Future.add_done_callback": "has a signature, where asyncio's C method has none",
    "Task.add_done_callback": "as Future.add_done_callback",
    "Task.get_loop": "is Future.get_loop in asyncio's repr",
    "SocketTransport.__init__": "loops make transports, programs can't",
    "DatagramTransport.__init__": "as SocketTransport.__init__",
    "ReadPipeTransport.__init__": "as SocketTransport.__init__",
    "WritePipeTransport.__init__": "as SocketTransport.__init__",
}


def public(cls: type) -> Iterator[str]:
    for name in dir(cls):
        seen = not name.startswith("_") or name in SPECIAL[1:] or (name == "__init__" and name in vars(cls))
        if seen and callable(getattr(cls, name)):
            yield name


def pairs() -> Iterator[tuple[str, Any, Any]]:
    native = rondel._rondel  # type: ignore[attr-defined]
    classes: list[tuple[type, type]] = [
        (asyncio.SelectorEventLoop, rondel.EventLoop),
        (selector_events._SelectorSocketTransport, native.SocketTransport),
        (selector_events._SelectorDatagramTransport, native.DatagramTransport),
        (unix_events._UnixReadPipeTransport, native.ReadPipeTransport),
        (unix_events._UnixWritePipeTransport, native.WritePipeTransport),
        (sslproto._SSLProtocolTransport, SSLTransport),
    ]
    for name in asyncio.__all__:
        stock, ours = getattr(asyncio, name), getattr(rondel, name)
        if stock is ours or name in OWN_NAMES:
            continue
        if isinstance(stock, type):
            classes.append((stock, ours))
        else:
            yield name, stock, ours
    for stock, ours in classes:
        for name in public(stock):
            yield f"{ours.__name__}.{name}", getattr(stock, name), getattr(ours, name, None)
    yield "Handle._run", asyncio.events.Handle._run, rondel.Handle._run  # tracers patch it


PAIRS = [(name, stock, ours) for name, stock, ours in pairs() if stock is not ours and callable(stock)]


def parameters(thing: Any) -> list[tuple[str, Any, Any]] | None:
    try:
        return [(p.name, p.kind, p.default) for p in inspect.signature(thing).parameters.values()]
    except ValueError:
        return None


def is_native(function: Any) -> bool:
    constants = function.__code__.co_consts if inspect.isfunction(function) else None
    return bool(constants) and type(constants[-1]).__name__ == "NativeCode"


NATIVE = [(name, ours) for name, _, ours in PAIRS if is_native(ours)]


def looks(thing: Any) -> dict[str, Any]:
    """What a program can find out about a function."""
    found: dict[str, Any] = {
        "coroutine function": inspect.iscoroutinefunction(thing),
        "generator function": inspect.isgeneratorfunction(thing) or inspect.isasyncgenfunction(thing),
        "function": inspect.isfunction(thing),
        "routine": inspect.isroutine(thing),
        "parameters": parameters(thing),
        "name": thing.__name__,
        "qualname": thing.__qualname__,
        "documented": bool(inspect.getdoc(thing)),
        "partial": inspect.iscoroutinefunction(functools.partial(thing)),
    }
    for name in ("__defaults__", "__kwdefaults__"):
        found[name] = getattr(thing, name, "none")
    return found


def code(thing: Any) -> dict[str, Any] | None:
    if not hasattr(thing, "__code__"):
        return None
    of = thing.__code__
    count = of.co_argcount + of.co_kwonlyargcount
    names = ("co_name", "co_qualname", "co_filename", "co_firstlineno", "co_argcount", "co_kwonlyargcount")
    kind = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
    return {
        **{name: getattr(of, name) for name in (*names, "co_posonlyargcount")},
        "parameters": of.co_varnames[:count],
        "flags": of.co_flags & kind,
    }


def test_there_are_some() -> None:
    assert len(PAIRS) > 200
    assert len(NATIVE) > 120


@pytest.mark.parametrize(("name", "stock", "ours"), [pytest.param(*pair, id=pair[0]) for pair in PAIRS])
def test_looks(name: str, stock: Any, ours: Any) -> None:
    expected, found = looks(stock), looks(ours)
    if not expected["documented"]:
        del expected["documented"], found["documented"]
    if is_native(ours):
        expected["code"], found["code"] = code(stock), code(ours)
    if name in EXPECTED:
        assert found != expected, "no longer an exception"
        return
    assert found == expected


def test_modules() -> None:
    before = {name: ours.__module__ for name, _, ours in PAIRS if inspect.isfunction(ours)}
    rondel.install()
    try:
        for name, stock, ours in PAIRS:
            if inspect.isfunction(ours) and name not in EXPECTED:
                assert ours.__module__ == stock.__module__, name
            if "." not in name and ours.__name__ == name:
                assert pickle.loads(pickle.dumps(ours)) is ours
    finally:
        rondel.uninstall()
    assert {name: ours.__module__ for name, _, ours in PAIRS if inspect.isfunction(ours)} == before
    for name, _, ours in PAIRS:
        assert copy.copy(ours) is copy.deepcopy(ours) is ours
        if "." not in name and ours.__name__ == name:
            assert pickle.loads(pickle.dumps(ours)) is ours
    assert pickle.loads(pickle.dumps(rondel.Queue.put)) is rondel.Queue.put
    assert pickle.loads(pickle.dumps(rondel.Queue.put_nowait)) is rondel.Queue.put_nowait


@pytest.mark.parametrize(("name", "function"), [pytest.param(*pair, id=pair[0]) for pair in NATIVE if "." in pair[0]])
def test_an_object_of_another_class(name: str, function: Any) -> None:
    class Other:
        pass

    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty and p.kind < 2]
    for this in (None, 5, "text", Other(), object, asyncio.Queue, Exception()):
        with pytest.raises(TypeError):
            function(this, *required[1:])
        with pytest.raises(TypeError):
            functools.partial(function, this)(*required[1:])
    with pytest.raises(TypeError):
        function()
    if required[1:]:
        with pytest.raises(TypeError, match="missing"):
            function.__get__(Other())()


@pytest.mark.parametrize(("name", "function"), [pytest.param(*pair, id=pair[0]) for pair in NATIVE])
def test_tools_take_it(name: str, function: Any) -> None:
    assert inspect.unwrap(function) is function
    assert function.__name__ in pydoc.plain(pydoc.render_doc(function))
    assert inspect.getsourcefile(function) == function.__code__.co_filename
    assert inspect.getsource(function).lstrip().startswith(("def ", "async def ", "@"))
    assert list(function.__code__.co_positions())
    assert {line for _, _, line in function.__code__.co_lines()} == {function.__code__.co_firstlineno}


both = pytest.mark.parametrize("aio", [asyncio, rondel], ids=["asyncio", "rondel"])


# ---- mocks ----


@both
def test_patching_gives_mocks_of_the_right_kind(aio: ModuleType) -> None:
    for name in ("sleep", "wait_for", "wait", "to_thread", "open_connection", "start_server", "create_subprocess_exec"):
        with mock.patch.object(aio, name) as patched:
            assert isinstance(patched, mock.AsyncMock)
    for name in ("gather", "create_task", "shield", "timeout"):
        with mock.patch.object(aio, name) as patched:
            assert not isinstance(patched, mock.AsyncMock)

    async def main() -> None:
        with mock.patch.object(aio, "sleep", return_value=3) as patched:
            assert await aio.sleep(1000) == 3
            patched.assert_awaited_once_with(1000)
        with mock.patch.object(aio, "sleep", autospec=True) as patched:
            await aio.sleep(1000, result=None)
            patched.assert_awaited_once_with(1000, result=None)
            with pytest.raises(TypeError):
                await aio.sleep()

    asyncio.run(main())


@both
@pytest.mark.parametrize(
    ("name", "coroutines", "others"),
    [
        ("StreamReader", ("read", "readline", "readexactly", "readuntil"), ("feed_data", "at_eof")),
        ("StreamWriter", ("drain", "wait_closed", "start_tls"), ("write", "close", "get_extra_info")),
        ("Queue", ("get", "put", "join"), ("get_nowait", "put_nowait", "qsize", "task_done")),
        ("LifoQueue", ("get", "put", "join"), ("get_nowait", "put_nowait", "qsize", "task_done")),
        ("Lock", ("acquire",), ("release", "locked")),
        ("Semaphore", ("acquire",), ("release", "locked")),
        ("Condition", ("wait", "wait_for"), ("notify", "notify_all")),
        ("Event", ("wait",), ("set", "clear", "is_set")),
        ("Barrier", ("wait", "reset", "abort"), ()),
        ("Task", (), ("cancel", "result", "done")),
        ("SelectorEventLoop", ("create_connection", "sock_recv", "getaddrinfo"), ("call_soon", "create_task", "time")),
    ],
)
def test_specs(aio: ModuleType, name: str, coroutines: tuple[str, ...], others: tuple[str, ...]) -> None:
    cls = aio.EventLoop if name == "SelectorEventLoop" and aio is rondel else getattr(aio, name)
    stock = getattr(asyncio, name)
    makers: list[Callable[[type], Any]] = [lambda cls: mock.MagicMock(spec=cls), lambda cls: mock.AsyncMock(spec=cls)]
    if name != "SelectorEventLoop":
        makers.append(lambda cls: mock.create_autospec(cls, instance=True))
    for make in makers:
        ours, expected = make(cls), make(stock)
        for method in (*coroutines, *others):
            kinds = [
                # For other functions mock's answer depends on a mock of their code.
                (type(found).__name__, method in others or inspect.iscoroutinefunction(found))
                for found in (getattr(ours, method), getattr(expected, method))
            ]
            assert kinds[0] == kinds[1], method
        assert isinstance(ours, cls)
    spec = mock.MagicMock(spec=cls)
    for method in (*coroutines, *others):
        assert isinstance(getattr(spec, method), mock.AsyncMock) == (method in coroutines)


@both
def test_autospec_checks_calls(aio: ModuleType) -> None:
    lock = mock.create_autospec(aio.Lock)
    with pytest.raises(TypeError):
        lock(1)
    with pytest.raises(TypeError):
        lock().release(1)
    queue = mock.create_autospec(aio.Queue, instance=True)
    queue.put_nowait(item=1)
    queue.put_nowait.assert_called_once_with(1)
    with pytest.raises(TypeError):
        queue.put_nowait()


# ---- changed functions ----


@both
def test_code_that_is_replaced(aio: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(delay: float, result: object = None) -> object:
        return ["replaced", delay, result]

    def locked(self: object) -> str:
        return "replaced"

    def call() -> Any:
        return asyncio.run(aio.sleep(0, 5))

    for _ in range(3):
        assert call() == 5
    with monkeypatch.context() as patch:
        patch.setattr(aio.sleep, "__code__", other.__code__)
        for _ in range(100):
            assert call() == ["replaced", 0, 5]
    assert call() == 5
    with monkeypatch.context() as patch:
        patch.setattr(aio.Lock.locked, "__code__", locked.__code__)
        lock = aio.Lock()
        assert [lock.locked() for _ in range(100)] == ["replaced"] * 100
        assert lock.locked() == "replaced"
    assert lock.locked() is False


@both
def test_defaults_that_are_replaced(aio: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio.sleep, "__defaults__", ("changed",))
    for _ in range(10):
        assert asyncio.run(aio.sleep(0)) == "changed"
        assert asyncio.run(aio.sleep(0, 1)) == 1


@both
@pytest.mark.parametrize("way", ["set", "changed", "deleted"])
def test_defaults_of_keywords_that_are_replaced(aio: ModuleType, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "changed" and aio is rondel and sys.version_info < (3, 12):
        pytest.skip("the interpreter does not tell of changes of a dict")

    async def fail() -> None:
        raise ValueError

    async def main() -> None:
        for _ in range(20):
            with monkeypatch.context() as patch:
                if way == "set":
                    patch.setattr(aio.gather, "__kwdefaults__", {"return_exceptions": True})
                elif way == "changed":
                    patch.setitem(aio.gather.__kwdefaults__, "return_exceptions", True)
                else:
                    patch.delattr(aio.gather, "__kwdefaults__")
                    coroutine = fail()
                    with pytest.raises(
                        TypeError, match="missing 1 required keyword-only argument: 'return_exceptions'"
                    ):
                        aio.gather(coroutine)
                    coroutine.close()
                    continue
                (error,) = await aio.gather(fail())
                assert isinstance(error, ValueError)
                with pytest.raises(ValueError):
                    await aio.gather(fail(), return_exceptions=False)
            with pytest.raises(ValueError):
                await aio.gather(fail())

    asyncio.run(main())


@both
def test_code_that_is_wrapped(aio: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like tracers that replace a function's code, and move the old code to another function."""
    calls = []
    function = aio.Queue.put_nowait
    inner = FunctionType(function.__code__, function.__globals__, "inner", function.__defaults__, function.__closure__)

    def trace(self: Any, item: Any) -> Any:
        return TRACE(self, item)  # type: ignore[name-defined]  # noqa: F821

    def traced(self: Any, item: Any) -> Any:
        calls.append(item)
        return inner(self, item)

    monkeypatch.setitem(function.__globals__, "TRACE", traced)
    monkeypatch.setattr(function, "__code__", trace.__code__)
    queue = aio.Queue()
    queue.put_nowait(1)
    assert queue.get_nowait() == 1
    assert calls == [1]


@pytest.mark.parametrize("name", ["bytecode", "function"])
def test_the_bytecode_calls_what_is_native(name: str) -> None:
    """A call for which the interpreter does not use the function's vectorcall."""

    def of(function: Any) -> Callable[..., Any]:
        if name == "function":
            return function
        copied = FunctionType(function.__code__, function.__globals__, "f", function.__defaults__)
        copied.__kwdefaults__ = function.__kwdefaults__
        return copied

    var = contextvars.ContextVar("var", default=0)
    context = contextvars.copy_context()
    context.run(var.set, 7)

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[int] = rondel.Queue()
        seen = []
        of(rondel.EventLoop.call_soon)(loop, lambda *args: seen.append((var.get(), args)), 1, 2, context=context)
        of(rondel.EventLoop.call_later)(loop, 0, seen.append, "later")
        seen.append(await of(rondel.sleep)(0.001, result="slept"))
        await of(rondel.Queue.put)(queue, 5)
        seen.append(await of(rondel.Queue.get)(queue))
        seen.append(await of(rondel.gather)(rondel.sleep(0, 1), rondel.sleep(0, 2), return_exceptions=True))
        seen.append(await of(rondel.to_thread)(dict, a=1))
        seen.append(await of(rondel.wait_for)(rondel.sleep(0, 4), 5))
        lock = rondel.Lock()
        seen.append(await of(type(lock).__aenter__)(lock))
        seen.append(await of(type(lock).__aexit__)(lock, None, None, None))
        return seen

    slept = [(7, (1, 2)), "later", "slept", 5, [1, 2], {"a": 1}, 4, None, None]
    assert rondel.run(main()) == slept


@both
@pytest.mark.parametrize("kind", ["trace", "profile", "monitoring"])
def test_while_it_is_traced(aio: ModuleType, kind: str) -> None:
    async def main() -> list[Any]:
        queue = aio.Queue(1)
        loop = asyncio.get_running_loop()
        results = []
        for number in range(50):
            loop.call_soon(results.append, number)
            await queue.put(number)
            results.append(await queue.get())
            async with aio.Lock():
                results.append(await aio.sleep(0, "slept"))
        with pytest.raises(TypeError):
            await queue.put()
        return results

    def trace(frame: Any, event: str, arg: Any) -> Any:
        return trace

    expected = asyncio.run(main())
    with asyncio.Runner(loop_factory=None if aio is asyncio else rondel.new_event_loop) as runner:
        runner.get_loop()
        if kind == "monitoring":
            if sys.version_info < (3, 12):
                pytest.skip("sys.monitoring came with 3.12")
            tool, events = 3, sys.monitoring.events
            seen = []
            sys.monitoring.use_tool_id(tool, "test")
            for event in (events.CALL, events.C_RETURN, events.PY_START, events.PY_RETURN):
                sys.monitoring.register_callback(tool, event, lambda *args: seen.append(args))
            sys.monitoring.set_events(tool, events.CALL | events.PY_START | events.PY_RETURN)
            try:
                assert runner.run(main()) == expected
            finally:
                sys.monitoring.set_events(tool, 0)
                sys.monitoring.free_tool_id(tool)
            assert seen
        else:
            start = getattr(sys, f"set{kind}")
            before = getattr(sys, f"get{kind}")()
            start(trace)
            try:
                found = runner.run(main())
            finally:
                start(before)
            assert found == expected


# ---- subclasses ----


@both
def test_overriding_and_super(aio: ModuleType) -> None:
    class Queue(aio.Queue):
        def put_nowait(self, item: Any) -> None:
            super().put_nowait(item * 2)

        async def get(self) -> Any:
            return [await super().get()]

        def __init__(self) -> None:
            super().__init__(maxsize=2)

    class Plain(aio.Queue):
        pass

    class Reader(aio.StreamReader):
        async def readline(self) -> bytes:
            line = await super().readline()
            return line and b"> " + line

    async def main() -> None:
        queue = Queue()
        await queue.put(4)
        assert await queue.get() == [8]
        assert queue.maxsize == 2
        plain = Plain(3)
        for number in range(3):
            Plain.put_nowait(plain, number)
        assert plain.full()
        assert [await plain.get() for _ in range(3)] == [0, 1, 2]
        reader = Reader()
        reader.feed_data(b"one\ntwo\n")
        reader.feed_eof()
        assert await reader.readline() == b"> one\n"
        assert [line async for line in reader] == [b"> two\n"]

    asyncio.run(main())


@both
def test_a_wrapper_from_functools(aio: ModuleType) -> None:
    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    wrapped = decorated(aio.sleep)
    assert inspect.unwrap(wrapped) is aio.sleep
    assert str(inspect.signature(wrapped)) == "(delay, result=None)"
    assert asyncio.run(wrapped(0, result=1)) == 1


# ---- return values of coroutine functions ----


@both
def test_the_state_of_what_a_task_runs(aio: ModuleType) -> None:
    async def main() -> list[str]:
        lock = aio.Lock()
        await lock.acquire()
        states = []
        for coroutine in (aio.sleep(0.001), lock.acquire(), aio.wait_for(aio.Event().wait(), 5)):
            assert (coroutine.cr_running, coroutine.cr_suspended) == (False, False)
            assert coroutine.cr_origin is None
            task = asyncio.ensure_future(coroutine)
            await asyncio.sleep(0)
            states.append(inspect.getcoroutinestate(task.get_coro()))
            task.cancel()
            await asyncio.wait([task])
            states.append(inspect.getcoroutinestate(task.get_coro()))
            assert inspect.isawaitable(coroutine)
        return states

    assert asyncio.run(main()) == ["CORO_SUSPENDED", "CORO_CLOSED"] * 3


@both
def test_a_coroutine_that_was_never_begun(aio: ModuleType) -> None:
    event = aio.Event()
    made = [
        (aio.sleep(1), aio.sleep),
        (event.wait(), aio.Event.wait),
        (aio.Queue().get(), aio.Queue.get),
        (aio.to_thread(print), aio.to_thread),
    ]
    for coroutine, function in made:
        assert inspect.getcoroutinestate(coroutine) == "CORO_CREATED"
        code = function.__code__
        assert coroutine.cr_code is code
        assert coroutine.cr_frame.f_code is code
        assert coroutine.cr_frame.f_lineno == code.co_firstlineno
        assert coroutine.cr_frame.f_globals is function.__globals__
        assert isinstance(inspect.getcoroutinelocals(coroutine), Mapping)
        coroutine.close()
        assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"
        assert coroutine.cr_code is code
        assert coroutine.cr_frame is None


@both
def test_a_coroutine_shows_where_it_waits(aio: ModuleType) -> None:
    async def main() -> None:
        lock, condition = aio.Lock(), aio.Condition()
        await lock.acquire()
        await condition.acquire()
        awaits = [
            (aio.sleep(60), "sleep", "return await future"),
            (lock.acquire(), "acquire", "await fut"),
            (condition.wait(), "wait", "await fut"),
            (lock.__aenter__(), "__aenter__", "await self.acquire()"),
            (aio.Queue().get(), "get", "await getter"),
            (aio.StreamReader().readline(), "readline", "line = await self.readuntil(sep)"),
        ]
        for coroutine, name, line in awaits:
            task = aio.create_task(coroutine)
            await aio.sleep(0)
            (frame,) = task.get_stack()
            assert frame.f_code.co_name == name
            file = frame.f_code.co_filename
            assert linecache.getline(file, frame.f_lineno).strip() == line
            qualname = coroutine.__qualname__
            assert f" coro=<{qualname}() running at {file}:{frame.f_lineno}>" in repr(task)
            task.cancel()
            await aio.wait([task])
            assert f" coro=<{qualname}() done, defined at {file}:{coroutine.cr_code.co_firstlineno}>" in repr(task)
            assert task.get_stack() == []

    asyncio.run(main())
