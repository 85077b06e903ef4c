"""`vars()`, `copy` and `pickle` for native locks, events, queues and the like.

asyncio's classes are Python classes: an instance's state is its `__dict__`, which `copy` and
`pickle` use. Ours have the same attributes, but store them natively. So reading `__dict__` fills it
with the current values, and setting the state sets the attributes. The native module adds the
attributes that `members` returns to these classes when it creates them.
"""

from typing import Any

__all__ = ("members",)

# Constructor arguments. An instance of asyncio's class is created to learn which attributes it has.
_ARGUMENTS: dict[str, tuple[object, ...]] = {"Barrier": (1,), "Timeout": (None,)}
# An `asyncio.Condition` has these methods of its lock as instance attributes. Ours has methods.
_LOCK_METHODS = ("locked", "acquire", "release")


class _StateDict:
    """The descriptor `__dict__` of one class."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._plain: Any = next(vars(base)["__dict__"] for base in stock.__mro__ if "__dict__" in vars(base))
        self._names: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        if not self._names:
            self._names = tuple(vars(self._stock(*_ARGUMENTS.get(self._stock.__name__, ()))))
        return self._names

    def __get__(self, owner: Any, cls: type | None = None) -> Any:
        if owner is None:
            return self
        held: dict[str, Any] = self._plain.__get__(owner)
        for name in self.names():
            held[name] = getattr(owner, name, None)
        if "_loop" not in self.names():
            # In asyncio `_loop` is a class attribute until a task waits. A Timeout has none.
            loop = getattr(owner, "_loop", None)
            if loop is None:
                held.pop("_loop", None)
            else:
                held["_loop"] = loop
        return held

    def __set__(self, owner: Any, state: dict[str, Any]) -> None:
        self._plain.__set__(owner, {})
        self.put(owner, state)

    def put(self, owner: Any, state: dict[str, Any]) -> None:
        held = self._plain.__get__(owner)
        for name, value in state.items():
            if hasattr(type(owner), name) or name in self.names():
                setattr(owner, name, value)
            else:
                held[name] = value


def members(stock: type) -> dict[str, object]:
    """Return the attributes for the native class that replaces this class of asyncio."""
    state = _StateDict(stock)

    def __getstate__(self: Any) -> Any:
        state.__get__(self)
        saved: Any = object.__getstate__(self)  # with the slots of subclasses
        values, *slots = saved if isinstance(saved, tuple) else (saved,)
        values = dict(values)
        lock = values.get("_lock")
        for name in _LOCK_METHODS if lock is not None else ():
            method = values.get(name)
            if getattr(method, "__self__", None) is lock and getattr(method, "__name__", None) == name:
                del values[name]
        return (values, *slots) if slots else values

    def __setstate__(self: Any, saved: Any) -> None:
        values, slots = saved if isinstance(saved, tuple) else (saved, None)
        state.put(self, values or {})
        for name, value in (slots or {}).items():
            setattr(self, name, value)

    for function in (__getstate__, __setstate__):
        function.__qualname__ = f"{stock.__name__}.{function.__name__}"
        function.__module__ = "rondel"
    return {"__dict__": state, "__getstate__": __getstate__, "__setstate__": __setstate__}
