"""Python functions that wrap native functions, modelled on asyncio's functions.

asyncio's functions are mostly Python functions, with a code object, and programs inspect them: is
it a coroutine function (frameworks, `mock.patch`), what are its parameters (`inspect.signature`,
`autospec`), where is its code (tracers). So a native function or method whose model in asyncio is a
Python function is replaced by a Python function with the model's name, parameters, flags, file and
line. Its bytecode calls the native function. From Python 3.12 on a call skips the bytecode: see
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

__all__ = (
    "copy_names",
    "coroutine_code",
    "install_in_class",
    "is_asyncio_function",
    "register_public_names",
    "set_reported_modules",
)

# Flags that tell how to run the bytecode: they are taken from our code, not from the model's.
_BYTECODE_FLAGS = 0x1 | 0x2 | 0x10  # CO_OPTIMIZED, CO_NEWLOCALS, CO_NESTED
# Special methods that are wrapped. The interpreter calls the others through their slots, and a
# Python function would make subclasses slower.
_SPECIAL = ("__init__", "__aenter__", "__aexit__", "__aiter__", "__anext__")

_bytecode: dict[object, CodeType] = {}
# The public functions; the `__module__` of each; that of its model in asyncio.
_public_functions: list[tuple[FunctionType, str, str]] = []
# The coroutine functions and their models, by qualified name; the results of `coroutine_code`.
_coroutines: dict[str, tuple[FunctionType, FunctionType]] = {}
_codes: dict[tuple[str, bool], tuple[CodeType, dict[str, Any]] | None] = {}


def _bytecode_for(model: CodeType) -> CodeType:
    """Return code that passes all its parameters on to a constant. It has the model's parameters.

    Positional parameters have other names than the model's: `_code` renames them.
    """
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
        # The constant is a string here; `_code` replaces it. The local variable avoids the
        # compiler's warning that a string is not callable.
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
        co_flags=(model.co_flags & ~_BYTECODE_FLAGS) | (bytecode.co_flags & _BYTECODE_FLAGS),
        co_posonlyargcount=model.co_posonlyargcount,
        co_varnames=model.co_varnames[:parameters] + bytecode.co_varnames[parameters:],
        # Native code looks for the native function in the last constant.
        co_consts=(*constants, native),
        # All instructions are on the first line: one entry without columns per eight code units.
        co_linetable=b"".join(bytes([0xE8 | (min(8, units - at) - 1), 0]) for at in range(0, units, 8)),
    )


def _function(model: FunctionType, target: Any, cls: type | None = None) -> FunctionType:
    """Make a Python function like the model, which calls the native function `target`."""
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
    """Return the code and the globals of the coroutine function with this qualified name.

    If `awaits`, the code's first line is that of the function's `await`.
    """
    key = name, awaits
    if key not in _codes:
        _codes[key] = None
        if name in _coroutines:
            function, model = _coroutines[name]
        else:
            found = _find_in_asyncio(name)
            if found is None:
                return None
            function = model = found
        code = function.__code__
        if awaits:
            lines = _await_lines(model.__code__)
            # `Condition.wait` waits in its first `await`; the last one reacquires the lock. In all
            # other functions, the last `await` is the one that takes long.
            line = lines[0 if name == "Condition.wait" else -1] if lines else model.__code__.co_firstlineno
            # A frame that has not started is at the first line of its code.
            code = code.replace(co_firstlineno=line)
        _codes[key] = code, function.__globals__
    return _codes[key]


def _await_lines(code: CodeType) -> list[int]:
    """Return the lines of the plain `await` expressions, sorted."""
    found = (
        instruction.positions.lineno
        for instruction in dis.get_instructions(code)
        if instruction.opname == "GET_AWAITABLE" and instruction.arg == 0 and instruction.positions is not None
    )
    return sorted({line for line in found if line is not None})


def _find_in_asyncio(name: str) -> FunctionType | None:
    """Find asyncio's function with this qualified name."""
    for module in (tasks, mixins, streams, threads):
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if is_asyncio_function(found):
            return found  # type: ignore[no-any-return]
    return None


def is_asyncio_function(thing: object) -> bool:
    """Whether it is asyncio's own Python function, and not a program's replacement."""
    return type(thing) is FunctionType and thing.__globals__.get("__name__", "").partition(".")[0] == "asyncio"


def _model(namespace: Any, name: str) -> FunctionType | None:
    found = inspect.unwrap(namespace.get(name))
    return found if is_asyncio_function(found) else None


def install_in_class(cls: type, stock: type) -> list[FunctionType]:
    """Replace a class's native methods by functions, where asyncio's class has functions."""
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
            # A repeated inherited descriptor, which made calls faster. A function is fast anyway.
            delattr(cls, name)
            continue
        function = _function(model, target, cls)
        _rondel.put(cls, name, function)
        put.append(function)
    return put


def _install_in_module() -> None:
    """Replace native functions and methods of the module `_rondel` by Python functions."""
    classes = _classes()
    for name, target in list(vars(_rondel).items()):
        if isinstance(target, BuiltinFunctionType):
            model = _model(vars(asyncio), name)
            if model is not None:
                function = _function(model, target)
                setattr(_rondel, name, function)
                _set_module(function, "rondel", function.__module__)
        elif isinstance(target, type) and name in classes:
            install_in_class(target, classes[name])
        elif isinstance(target, type) and isinstance(vars(asyncio).get(name), type):
            for function in install_in_class(target, vars(asyncio)[name]):
                _set_module(function, "rondel", function.__module__)


def _set_module(function: FunctionType, here: str, module: str) -> None:
    _public_functions.append((function, here, module))
    function.__module__ = here


def _own_functions(cls: type) -> Iterator[tuple[str, FunctionType]]:
    for name, function in vars(cls).items():
        if type(function) is FunctionType and not is_asyncio_function(function):
            yield name, function


def register_public_names(names: dict[str, Any]) -> None:
    """Set the `__module__` of public names; note which functions replace asyncio's."""
    for name in names["__all__"]:
        ours = names.get(name)
        # Programs import it from the package. The private module that defines it may change. But
        # `inspect` looks for the source of a class written in Python in its module.
        is_native = isinstance(ours, type) and ours.__module__ == _rondel.__name__
        if (isinstance(ours, FunctionType) and ours.__module__.startswith("rondel.")) or is_native:
            ours.__module__ = "rondel"
    for name in asyncio.__all__:
        stock, ours = vars(asyncio).get(name), names.get(name)
        if type(ours) is FunctionType and not is_asyncio_function(ours):
            model = _model(vars(asyncio), name)
            if model is not None:
                _set_module(ours, ours.__module__, model.__module__)
        elif isinstance(ours, type) and isinstance(stock, type) and ours is not stock:
            for method, function in _own_functions(ours):
                model = _model(vars(stock), method)
                if model is not None and name != "EventLoop":
                    _set_module(function, function.__module__, model.__module__)


def copy_names(cls: type, stock: type) -> None:
    """Give the Python methods of a class the qualified names and modules of asyncio's methods."""
    for base in cls.__mro__:
        if issubclass(stock, base):
            break
        for name, function in _own_functions(base):
            model = None if name.startswith("__") else getattr(stock, name, None)
            model = model and inspect.unwrap(model)
            if model is not None and is_asyncio_function(model):
                function.__qualname__ = model.__qualname__
                function.__module__ = model.__module__


def set_reported_modules(installed: bool) -> None:
    """Set the `__module__` of the public functions. `pickle` looks functions up there."""
    for function, here, module in _public_functions:
        function.__module__ = module if installed else here


def _classes() -> dict[str, type]:
    """The private classes of asyncio that are models, by the names of our classes."""
    models = {
        "DatagramTransport": getattr(selector_events, "_SelectorDatagramTransport", None),
        "LoopCore": asyncio.SelectorEventLoop,
        "ReadPipeTransport": getattr(unix_events, "_UnixReadPipeTransport", None),
        "SocketTransport": getattr(selector_events, "_SelectorSocketTransport", None),
        "WritePipeTransport": getattr(unix_events, "_UnixWritePipeTransport", None),
    }
    # Without its model a class keeps native methods, which work as well.
    return {name: model for name, model in models.items() if isinstance(model, type)}


_install_in_module()
