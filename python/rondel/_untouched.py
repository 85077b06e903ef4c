"""Tells whether a function or class of asyncio is unchanged, or a program has patched it.

Tracers replace functions, methods of classes, or the code of functions. They may do so before
`install()` is called, or before Rondel is imported. Their patches must stay in force.
"""

import asyncio
import os
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

__all__ = ("is_untouched",)

_FOLDER = os.path.dirname(asyncio.__file__)
#: Types of callable class attributes in asyncio, besides functions.
_PARTS = (classmethod, staticmethod, property, type, BuiltinFunctionType)


def _is_unpatched_function(function: FunctionType) -> bool:
    # A program that replaces a function's code leaves an attribute on the function: the old code,
    # or a mark.
    return not vars(function).keys() - {"__final__"} and os.path.dirname(function.__code__.co_filename) == _FOLDER


def is_untouched(value: Any) -> bool:
    """Whether a function or class of asyncio is unpatched."""
    if type(value) is FunctionType:
        return _is_unpatched_function(value)
    if isinstance(value, type):
        return all(map(_is_unpatched_attribute, vars(value).values()))
    return type(value) is BuiltinFunctionType


def _is_unpatched_attribute(value: Any) -> bool:
    if isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    if type(value) is FunctionType:
        # `NamedTuple` and the like generate methods whose code belongs to no file.
        return _is_unpatched_function(value) or value.__code__.co_filename.startswith("<")
    is_descriptor = hasattr(type(value), "__get__") and type(value).__module__ == "builtins"
    return not callable(value) or is_descriptor or isinstance(value, (*_PARTS, MethodType))
