"""`copy`, `pickle`, `vars()` and dataclasses with locks, events and queues."""

import asyncio
import copy
import dataclasses
import pickle
import weakref
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Lock": (),
    "Event": (),
    "Condition": (),
    "Semaphore": (2,),
    "BoundedSemaphore": (2,),
    "Barrier": (2,),
    "Queue": (3,),
    "LifoQueue": (),
    "PriorityQueue": (),
    "TaskGroup": (),
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda it: pickle.loads(pickle.dumps(it)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_copies_are_like_the_original(aio: ModuleType, name: str, way: str) -> None:
    original = getattr(aio, name)(*ARGUMENTS[name])
    made = COPIES[way](original)
    assert type(made) is type(original) and made is not original
    assert list(vars(made)) == list(vars(original))
    for attribute, value in vars(original).items():
        if value is None or isinstance(value, (int, deque, list)):
            assert vars(made)[attribute] == value and getattr(made, attribute) == value


@pytest.mark.parametrize("way", COPIES)
def test_what_is_copied(aio: ModuleType, run: Any, way: str) -> None:
    async def main() -> None:
        queue = aio.Queue(5)
        lifo = aio.LifoQueue()
        for item in (1, 2):
            queue.put_nowait(item)
            lifo.put_nowait(item)
        made, made_lifo = COPIES[way]((queue, lifo)) if way != "copy" else (copy.copy(queue), copy.copy(lifo))
        assert (made.qsize(), made.maxsize) == (2, 5)
        assert [made.get_nowait(), made_lifo.get_nowait()] == [1, 2]
        assert queue.qsize() == (1 if way == "copy" else 2)  # a shallow copy has the same deque
        made.task_done()
        made.task_done()
        await made.join()
        lock, event, semaphore = aio.Lock(), aio.Event(), aio.Semaphore(2)
        await lock.acquire()
        await semaphore.acquire()
        event.set()
        lock, event, semaphore = (COPIES[way](it) for it in (lock, event, semaphore))
        assert lock.locked() and event.is_set() and semaphore._value == 1
        lock.release()
        async with lock, semaphore:
            await event.wait()

    run(main())


def test_a_condition_is_copied_with_its_lock(aio: ModuleType, run: Any) -> None:
    async def main() -> None:
        condition = aio.Condition()
        deep, shallow = copy.deepcopy(condition), copy.copy(condition)
        assert shallow._lock is condition._lock is not deep._lock
        async with deep:
            assert deep.locked() and deep._lock.locked() and not condition.locked()
            deep.notify_all()
        async with shallow:
            assert condition.locked() and not deep.locked()

    run(main())


def test_a_dataclass_that_holds_some(aio: ModuleType) -> None:
    @dataclasses.dataclass
    class Holder:
        lock: Any = dataclasses.field(default_factory=aio.Lock)
        queue: Any = dataclasses.field(default_factory=aio.Queue)

    holder = Holder()
    made = copy.deepcopy(holder)
    assert type(made.lock) is type(holder.lock) and made.lock is not holder.lock
    assert set(dataclasses.asdict(holder)) == {"lock", "queue"}
    assert dataclasses.replace(holder).lock is holder.lock


@pytest.mark.parametrize("way", ["copy", "deepcopy"])
@pytest.mark.parametrize("slots", [(), ("extra",)], ids=["dict", "slots"])
def test_subclasses(aio: ModuleType, way: str, slots: tuple[str, ...]) -> None:
    def init(self: Any) -> None:
        aio.Queue.__init__(self, 4)
        self.extra, self.more = [1], "more"

    derived: Any = type("Derived", (aio.Queue,), {"__slots__": slots, "__init__": init})
    original = derived()
    original.put_nowait(7)
    made = COPIES[way](original)
    assert (made.extra, made.more, made.maxsize, made.get_nowait()) == ([1], "more", 4, 7)
    assert (made.extra is original.extra) == (way == "copy")
    assert ("more" in vars(made)) and ("extra" in vars(made)) == (not slots)


def test_attributes_of_a_programs_own(aio: ModuleType) -> None:
    for name, arguments in ARGUMENTS.items():
        thing = getattr(aio, name)(*arguments)
        thing.mine = 5
        assert vars(thing)["mine"] == 5 and copy.copy(thing).mine == 5
        vars(thing)["other"] = 6
        assert thing.other == 6
        del thing.mine
        assert not hasattr(thing, "mine") and "mine" not in thing.__dict__
        assert weakref.ref(thing)() is thing


def test_vars_tell_what_is(aio: ModuleType, run: Any) -> None:
    async def main() -> None:
        lock = aio.Lock()
        assert vars(lock) == {"_waiters": None, "_locked": False}
        await lock.acquire()
        assert vars(lock)["_locked"]
        waiting = aio.create_task(lock.acquire())
        await aio.sleep(0)
        assert vars(lock)["_loop"] is aio.get_running_loop() and len(vars(lock)["_waiters"]) == 1
        lock.release()
        assert await waiting
        event = aio.Event()
        event.__dict__ = {"_waiters": deque(), "_value": True, "mine": 1}
        assert event.is_set() and event.mine == 1

    run(main())


def test_what_belongs_to_a_loop_is_not_copied_deeply(aio: ModuleType, run: Any) -> None:
    async def main() -> None:
        lock = aio.Lock()
        await lock.acquire()
        waiting = aio.create_task(lock.acquire())
        await aio.sleep(0)
        for way in (copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                way(lock)
        lock.release()
        await waiting

    run(main())


def test_streams_have_a_dict(aio: ModuleType, run: Any) -> None:
    async def main() -> None:
        server = await aio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        reader, writer = await aio.open_connection(*server.sockets[0].getsockname())
        protocol = writer.transport.get_protocol()
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        assert isinstance(protocol, asyncio.StreamReaderProtocol)
        for thing in (reader, writer, protocol, writer.transport):
            thing.my_attribute = 5
            assert vars(thing)["my_attribute"] == 5
            vars(thing)["another"] = 6
            assert thing.another == 6
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())
