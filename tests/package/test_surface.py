"""The module's names, signatures, docstrings and classes.

Each function and class is compared with asyncio's of the running version.
"""

import asyncio
import copy
import gc
import inspect
import pickle
import weakref
from asyncio import selector_events, unix_events
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import rondel

OWN_NAMES = {"EventLoop", "EventLoopPolicy", "install", "uninstall"}
NATIVE = sorted(
    name for name in asyncio.__all__ if getattr(asyncio, name) is not getattr(rondel, name) and name not in OWN_NAMES
)
NATIVE_CLASSES = [name for name in NATIVE if isinstance(getattr(rondel, name), type)]

# Methods whose signature differs, or cannot be determined in asyncio.
EXPECTED_DIFFERENCES = {
    # C classes have `(self, /, *args, **kwargs)`, in asyncio too; the class has the signature.
    "__init__",
    # asyncio's has additional parameters, which keep objects alive until exit.
    "__del__",
}


def signature(thing: object) -> list[tuple[str, Any, Any]] | None:
    try:
        parameters = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    except ValueError:
        return None
    return [(p.name, p.kind, p.default) for p in parameters if p.name != "self"]


def methods(cls: type) -> Iterator[str]:
    for name in dir(cls):
        special = name in ("__aenter__", "__aexit__", "__aiter__", "__anext__", "__await__", "__class_getitem__")
        if (not name.startswith("_") or special) and callable(getattr(cls, name)):
            yield name


def pairs() -> Iterator[tuple[str, Any, Any]]:
    for name in NATIVE:
        yield name, getattr(asyncio, name), getattr(rondel, name)
    classes: list[tuple[type, type]] = [(getattr(asyncio, name), getattr(rondel, name)) for name in NATIVE_CLASSES]
    classes.append((asyncio.SelectorEventLoop, rondel.EventLoop))
    native = rondel._rondel  # type: ignore[attr-defined]
    classes += [
        (selector_events._SelectorSocketTransport, native.SocketTransport),
        (selector_events._SelectorDatagramTransport, native.DatagramTransport),
        (unix_events._UnixReadPipeTransport, native.ReadPipeTransport),
        (unix_events._UnixWritePipeTransport, native.WritePipeTransport),
    ]
    for stock, ours in classes:
        for name in methods(stock):
            yield f"{ours.__name__}.{name}", getattr(stock, name), getattr(ours, name, None)


PAIRS = [pytest.param(stock, ours, id=name) for name, stock, ours in pairs() if stock is not ours]


def test_every_name_is_there():
    assert len(set(rondel.__all__)) == len(rondel.__all__)
    assert set(asyncio.__all__) <= set(rondel.__all__)
    assert set(rondel.__all__) - set(asyncio.__all__) <= OWN_NAMES
    assert {name for name in rondel.__all__ if not hasattr(rondel, name)} == set()


def test_every_class_is_asyncios() -> None:
    for name in asyncio.__all__:
        stock, ours = getattr(asyncio, name), getattr(rondel, name)
        if isinstance(stock, type):
            assert issubclass(ours, stock), name
            if stock is not ours:
                order = [cls for cls in ours.__mro__ if not cls.__module__.startswith("rondel")]
                assert [cls for cls in order if cls in stock.__mro__] == list(stock.__mro__)


@pytest.mark.parametrize("name", ["StreamReader", "StreamWriter", "StreamReaderProtocol"])
def test_attributes_that_asyncios_classes_are_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stock, ours = getattr(asyncio, name), getattr(rondel, name)
    derived = type(name, (ours,), {})
    for cls in (ours, derived):
        assert not hasattr(cls, "given_by_a_program")
    for value in range(3):
        monkeypatch.setattr(stock, "given_by_a_program", value, raising=False)
        for cls in (ours, derived):
            assert cls.given_by_a_program == value
    monkeypatch.undo()
    for cls in (ours, derived):
        assert not hasattr(cls, "given_by_a_program")
    assert ours in stock.__subclasses__()


@pytest.mark.parametrize(("stock", "ours"), PAIRS)
def test_signatures(stock: Any, ours: Any) -> None:
    assert ours is not None
    expected = signature(stock)
    if expected is not None:
        assert signature(ours) == expected
    assert inspect.getdoc(ours) or not inspect.getdoc(stock)


@pytest.mark.parametrize("name", NATIVE)
def test_names_and_modules(name: str) -> None:
    stock, ours = getattr(asyncio, name), getattr(rondel, name)
    if stock.__name__ != name:  # asyncio creates this function from another one
        assert ours.__name__ in (name, stock.__name__)
        return
    assert ours.__name__ == name
    assert ours.__qualname__ == name
    # A class written in Python is in the module that has its source.
    assert ours.__module__ == {"EventLoop": "rondel._event_loop", "Runner": "rondel._runners"}.get(name, "rondel")
    assert not repr(ours).startswith("<built-in method")
    assert pickle.loads(pickle.dumps(ours)) is ours
    assert copy.copy(ours) is ours


def make(aio: ModuleType, name: str, loop: Any) -> Any:
    """Create an instance of a class of the module."""

    async def nothing() -> None:
        pass

    def call() -> None:
        pass

    def protocol() -> Any:
        return aio.StreamReaderProtocol(aio.StreamReader(loop=loop), loop=loop)

    made: dict[str, Callable[[], Any]] = {
        "Barrier": lambda: aio.Barrier(2),
        "Future": lambda: aio.Future(loop=loop),
        "Handle": lambda: aio.Handle(call, (), loop),
        "StreamReader": lambda: aio.StreamReader(loop=loop),
        "StreamReaderProtocol": protocol,
        "StreamWriter": lambda: aio.StreamWriter(mock.Mock(), protocol(), aio.StreamReader(loop=loop), loop),
        "Task": lambda: aio.Task(nothing(), loop=loop),
        "Timeout": lambda: aio.Timeout(None),
        "TimerHandle": lambda: aio.TimerHandle(1.0, call, (), loop),
    }
    return made.get(name, getattr(aio, name))()


both = pytest.mark.parametrize("aio", [asyncio, rondel], ids=["asyncio", "rondel"])
each_class = pytest.mark.parametrize("name", NATIVE_CLASSES)


@pytest.fixture
def own_loop(aio: ModuleType) -> Iterator[asyncio.AbstractEventLoop]:
    loop = aio.new_event_loop()
    yield loop
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@both
@each_class
def test_weak_references(aio: ModuleType, own_loop: asyncio.AbstractEventLoop, name: str) -> None:
    gone: list[Any] = []
    thing = make(aio, name, own_loop)
    reference = weakref.ref(thing, gone.append)
    assert reference() is thing
    own_loop.run_until_complete(asyncio.sleep(0))
    del thing
    gc.collect()
    assert reference() is None
    assert gone == [reference]


@both
@pytest.mark.parametrize("name", ["Future", "Task"])
@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_futures_are_not_copied(
    aio: ModuleType, own_loop: asyncio.AbstractEventLoop, name: str, way: Callable[[Any], Any]
) -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        way(make(aio, name, own_loop))


@both
@each_class
@pytest.mark.parametrize("slots", [False, True], ids=["dict", "slots"])
def test_subclasses(aio: ModuleType, own_loop: asyncio.AbstractEventLoop, name: str, slots: bool) -> None:
    base = getattr(aio, name)
    cls = type("Own", (base,), {"__slots__": ("own",)} if slots else {})
    thing = make(namespace_with(aio, name, cls), name, own_loop)
    assert type(thing) is cls
    assert isinstance(thing, base)
    thing.own = [thing]
    assert thing.own == [thing]
    reference = weakref.ref(thing)
    own_loop.run_until_complete(asyncio.sleep(0))
    del thing
    gc.collect()
    assert reference() is None


def namespace_with(aio: ModuleType, name: str, cls: type) -> Any:
    """Return the module with one class replaced."""
    other = ModuleType("other")
    vars(other).update({known: getattr(aio, known) for known in aio.__all__} | {name: cls})
    return other


@both
@each_class
def test_instances_take_attributes(aio: ModuleType, own_loop: asyncio.AbstractEventLoop, name: str) -> None:
    """Programs set attributes on futures, queues and locks, and replace methods of instances."""
    thing = make(aio, name, own_loop)
    if name in ("Handle", "TimerHandle"):
        with pytest.raises(AttributeError):
            thing.anything = 1
        return
    thing.anything = 1
    assert thing.anything == 1
    del thing.anything
    assert not hasattr(thing, "anything")


@both
@pytest.mark.parametrize("name", ["Future", "Queue", "PriorityQueue", "LifoQueue", "Task"])
def test_generic_classes(aio: ModuleType, name: str) -> None:
    alias = getattr(aio, name)[int]
    assert alias.__origin__ is getattr(aio, name)
    assert alias.__args__ == (int,)
