"""What `vars()`, `copy` and `pickle` see of native locks, events, queues and their kin.

asyncio's are Python objects: their state is in `__dict__`, which is all that copies and pickles are made of. Ours have the same
attributes, kept natively. So `__dict__` is brought up to date whenever a program asks for it, and a state that is given back
goes to the attributes. The native module puts what `members` gives into these classes when it makes them.
"""

from typing import Any

__all__ = ("members",)

# What each constructor needs, for an object of asyncio's own that tells which attributes there are.
_ARGUMENTS: dict[str, tuple[object, ...]] = {"Barrier": (1,), "Timeout": (None,)}
# Methods of its lock that a condition of asyncio's has as attributes. Ours asks its lock.
_OF_LOCK = ("locked", "acquire", "release")


class _State:
    """`__dict__` of one class."""

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
            # asyncio has it in the class until somebody waits. A Timeout has none.
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
    """Attributes for a native class that stands in for this one of asyncio's."""
    state = _State(stock)

    def __getstate__(self: Any) -> Any:
        state.__get__(self)
        saved: Any = object.__getstate__(self)  # with the slots of subclasses
        values, *slots = saved if isinstance(saved, tuple) else (saved,)
        values = dict(values)
        lock = values.get("_lock")
        for name in _OF_LOCK if lock is not None else ():
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
