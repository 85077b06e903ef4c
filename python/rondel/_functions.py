"""Python functions in the place of native ones, made after asyncio's.

What asyncio of the running version writes in Python is a function with code there, and programs ask for that: whether it is
a coroutine function (frameworks, `mock.patch`), what it takes (`inspect.signature`, `autospec`), where its code is (tracers).
So each native function and method that has a Python function as its model in asyncio is shown as a function with the model's
names, parameters, flags and place. Its bytecode calls the native one; from Python 3.12 on calls go there without it: see
`cpython/function.rs`.
"""

import asyncio
import dis
import inspect
import sys
from asyncio import mixins, selector_events, streams, tasks, threads, unix_events
from collections.abc import Iterator
from inspect import CO_COROUTINE, CO_VARARGS, CO_VARKEYWORDS
from types import BuiltinFunctionType, CodeType, FunctionType, WrapperDescriptorType
from typing import Any

from . import _rondel

__all__ = ("coroutine_code", "is_asyncios", "name_after", "note_names", "put_into_class", "show_as_asyncios")

# Flags that tell how the interpreter is to run the bytecode: those of the code that is really there.
_OF_BYTECODE = 0x1 | 0x2 | 0x10  # CO_OPTIMIZED, CO_NEWLOCALS, CO_NESTED
# Methods behind slots. Others of these the interpreter calls by the slot alone, and a function would only slow subclasses down.
_SPECIAL = ("__init__", "__aenter__", "__aexit__", "__aiter__", "__anext__")

_bytecode: dict[object, CodeType] = {}
# The functions that `rondel` shows, their modules here, and those of asyncio that have the models.
_shown: list[tuple[FunctionType, str, str]] = []
# The coroutine functions and their models, by qualified names, and what `coroutine_code` has found.
_coroutines: dict[str, tuple[FunctionType, FunctionType]] = {}
_codes: dict[tuple[str, bool], tuple[CodeType, dict[str, Any]] | None] = {}


def _bytecode_for(model: CodeType) -> CodeType:
    """Code with the parameters of the model, whose names may be others, that passes them all on to a local constant."""
    positional = model.co_argcount
    keywords = model.co_varnames[positional : positional + model.co_kwonlyargcount]
    flags = model.co_flags & (CO_VARARGS | CO_VARKEYWORDS)
    key = positional, keywords, flags
    if key not in _bytecode:
        names = [f"a{index}" for index in range(positional)]
        parameters, arguments = names.copy(), names.copy()
        if flags & CO_VARARGS:
            parameters.append("*args")
            arguments.append("*args")
        elif keywords:
            parameters.append("*")
        parameters += keywords
        arguments += [f"{name}={name}" for name in keywords]
        if flags & CO_VARKEYWORDS:
            parameters.append("**kwargs")
            arguments.append("**kwargs")
        # The constant is a text so far, and the local variable is for the compiler, which knows that a text can't be called.
        source = f"def f({', '.join(parameters)}): native = 'native'; return native({', '.join(arguments)})"
        namespace: dict[str, Any] = {}
        exec(source, namespace)
        _bytecode[key] = namespace["f"].__code__
    return _bytecode[key]


def _code(model: CodeType, native: object) -> CodeType:
    bytecode = _bytecode_for(model)
    parameters = model.co_argcount + model.co_kwonlyargcount
    parameters += bool(model.co_flags & CO_VARARGS) + bool(model.co_flags & CO_VARKEYWORDS)
    constants = tuple(native if constant == "native" else constant for constant in bytecode.co_consts)
    units = len(bytecode.co_code) // 2
    return bytecode.replace(
        co_name=model.co_name,
        co_qualname=model.co_qualname,
        co_filename=model.co_filename,
        co_firstlineno=model.co_firstlineno,
        co_flags=(model.co_flags & ~_OF_BYTECODE) | (bytecode.co_flags & _OF_BYTECODE),
        co_posonlyargcount=model.co_posonlyargcount,
        co_varnames=model.co_varnames[:parameters] + bytecode.co_varnames[parameters:],
        # The last one is where the native code is looked for.
        co_consts=(*constants, native),
        # All of it is on the first line: entries for eight code units each that have no column.
        co_linetable=b"".join(bytes([0xE8 | (min(8, units - at) - 1), 0]) for at in range(0, units, 8)),
    )


def _function(model: FunctionType, target: Any, cls: type | None = None) -> FunctionType:
    """A function after the model that calls what is native."""
    native = _rondel.native_code(target, cls)
    function = FunctionType(_code(model.__code__, native), model.__globals__, model.__name__, model.__defaults__)
    function.__kwdefaults__ = model.__kwdefaults__ and model.__kwdefaults__.copy()
    function.__qualname__ = model.__qualname__
    function.__module__ = model.__module__
    function.__doc__ = model.__doc__ or target.__doc__
    _rondel.attach(function, native)
    if model.__code__.co_flags & CO_COROUTINE:
        _coroutines.setdefault(model.__qualname__, (function, model))
    if sys.version_info < (3, 12) and not model.__code__.co_flags & CO_COROUTINE:
        return _rondel.stand_in(function)
    return function


def coroutine_code(name: str, awaits: bool) -> tuple[CodeType, dict[str, Any]] | None:
    """The code of a coroutine function of this qualified name, at the line of its `await` if it `awaits`, and its globals."""
    key = name, awaits
    if key not in _codes:
        _codes[key] = None
        if name in _coroutines:
            function, model = _coroutines[name]
        else:
            found = _asyncios(name)
            if found is None:
                return None
            function = model = found
        code = function.__code__
        if awaits:
            lines = _await_lines(model.__code__)
            # `Condition.wait` takes its lock again when it is over. Others await last what takes longest.
            line = lines[0 if name == "Condition.wait" else -1] if lines else model.__code__.co_firstlineno
            # A frame that has not run is at the first line.
            code = code.replace(co_firstlineno=line)
        _codes[key] = code, function.__globals__
    return _codes[key]


def _await_lines(code: CodeType) -> list[int]:
    """The lines of the plain awaits, in their order."""
    found = (
        instruction.positions.lineno
        for instruction in dis.get_instructions(code)
        if instruction.opname == "GET_AWAITABLE" and instruction.arg == 0 and instruction.positions is not None
    )
    return sorted({line for line in found if line is not None})


def _asyncios(name: str) -> FunctionType | None:
    """asyncio's own function of this qualified name."""
    for module in (tasks, mixins, streams, threads):
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if is_asyncios(found):
            return found  # type: ignore[no-any-return]
    return None


def is_asyncios(thing: object) -> bool:
    """Whether it is a function that asyncio has written in Python, and not what a program has put over one."""
    return type(thing) is FunctionType and thing.__globals__.get("__name__", "").partition(".")[0] == "asyncio"


def _model(namespace: Any, name: str) -> FunctionType | None:
    found = inspect.unwrap(namespace.get(name))
    return found if is_asyncios(found) else None


def put_into_class(cls: type, stock: type) -> list[FunctionType]:
    """Have a class show its native methods as functions where asyncio's class has functions."""
    natives = dict(vars(cls))
    if "__init__" in vars(stock):
        for base in cls.__mro__[1:-1]:
            if isinstance(vars(base).get("__init__"), WrapperDescriptorType):
                natives.setdefault("__init__", vars(base)["__init__"])
    put = []
    for name, target in natives.items():
        if (name.startswith("__") and name not in _SPECIAL) or isinstance(target, FunctionType) or not callable(target):
            continue
        has = next((base for base in stock.__mro__[:-1] if name in vars(base)), None)
        model = _model(vars(has), name) if has else None
        if model is None:
            continue
        if has is not stock and any(
            name in vars(base) for base in cls.__mro__[1:-1] if base.__module__ == cls.__module__
        ):
            # The native class has a descriptor of its own for the sake of a quicker call. A function needs none.
            delattr(cls, name)
            continue
        function = _function(model, target, cls)
        _rondel.put(cls, name, function)
        put.append(function)
    return put


def _put_into_module() -> None:
    """Have the native module and its classes show functions."""
    classes = _classes()
    for name, target in list(vars(_rondel).items()):
        if isinstance(target, BuiltinFunctionType):
            model = _model(vars(asyncio), name)
            if model is not None:
                function = _function(model, target)
                setattr(_rondel, name, function)
                _show(function, "rondel", function.__module__)
        elif isinstance(target, type) and name in classes:
            put_into_class(target, classes[name])
        elif isinstance(target, type) and isinstance(vars(asyncio).get(name), type):
            for function in put_into_class(target, vars(asyncio)[name]):
                _show(function, "rondel", function.__module__)


def _show(function: FunctionType, here: str, module: str) -> None:
    _shown.append((function, here, module))
    function.__module__ = here


def _own_functions(cls: type) -> Iterator[tuple[str, FunctionType]]:
    for name, function in vars(cls).items():
        if type(function) is FunctionType and not is_asyncios(function):
            yield name, function


def note_names(names: dict[str, Any]) -> None:
    """Note what the package has under these names in Python, beside asyncio's."""
    for name in names["__all__"]:
        ours = names.get(name)
        # Which private module has it is of no use to anybody: it is found in the package.
        if isinstance(ours, (FunctionType, type)) and ours.__module__.startswith("rondel."):
            ours.__module__ = "rondel"
    for name in asyncio.__all__:
        stock, ours = vars(asyncio).get(name), names.get(name)
        if type(ours) is FunctionType and not is_asyncios(ours):
            model = _model(vars(asyncio), name)
            if model is not None:
                _show(ours, ours.__module__, model.__module__)
        elif isinstance(ours, type) and isinstance(stock, type) and ours is not stock:
            for method, function in _own_functions(ours):
                model = _model(vars(stock), method)
                if model is not None and name != "EventLoop":
                    _show(function, function.__module__, model.__module__)


def name_after(cls: type, stock: type) -> None:
    """Give the methods that a class has in Python the names of those of asyncio's class."""
    for base in cls.__mro__:
        if issubclass(stock, base):
            break
        for name, function in _own_functions(base):
            model = None if name.startswith("__") else getattr(stock, name, None)
            model = model and inspect.unwrap(model)
            if model is not None and is_asyncios(model):
                function.__qualname__ = model.__qualname__
                function.__module__ = model.__module__


def show_as_asyncios(installed: bool) -> None:
    """Say in which module the package's functions are to be found: `pickle` looks them up there."""
    for function, here, module in _shown:
        function.__module__ = module if installed else here


def _classes() -> dict[str, type]:
    """Classes of asyncio that are not in its `__all__`, by the names that ours have."""
    selector: Any = selector_events
    unix: Any = unix_events
    return {
        "DatagramTransport": selector._SelectorDatagramTransport,
        "LoopCore": asyncio.SelectorEventLoop,
        "ReadPipeTransport": unix._UnixReadPipeTransport,
        "SocketTransport": selector._SelectorSocketTransport,
        "WritePipeTransport": unix._UnixWritePipeTransport,
    }


_put_into_module()
