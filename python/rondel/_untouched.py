"""Whether something of asyncio's is still what asyncio's files say, or a program has patched it.

Tracers replace functions, methods of classes, or the code of functions, and may do so before `install()` is called or before
Rondel is imported. What they have replaced is to stay.
"""

import asyncio
import os
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

__all__ = ("is_untouched",)

_FOLDER = os.path.dirname(asyncio.__file__)
#: What a class of asyncio's is made of, besides functions.
_PARTS = (classmethod, staticmethod, property, type, BuiltinFunctionType)


def _is_function_of_asyncios(function: FunctionType) -> bool:
    # Who changes the code of a function leaves the old one, or something that says so, at the function.
    return not vars(function).keys() - {"__final__"} and os.path.dirname(function.__code__.co_filename) == _FOLDER


def is_untouched(value: Any) -> bool:
    """Whether a function or class of asyncio's is as asyncio has it."""
    if type(value) is FunctionType:
        return _is_function_of_asyncios(value)
    if isinstance(value, type):
        return all(map(_is_part, vars(value).values()))
    return type(value) is BuiltinFunctionType


def _is_part(value: Any) -> bool:
    if isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    if type(value) is FunctionType:
        # `NamedTuple`, `abc` and the like make functions whose code is of no file of asyncio's.
        return _is_function_of_asyncios(value) or value.__code__.co_filename.startswith("<")
    is_descriptor = hasattr(type(value), "__get__") and type(value).__module__ == "builtins"
    return not callable(value) or is_descriptor or isinstance(value, (*_PARTS, MethodType))
