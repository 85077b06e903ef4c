"""`inspect`, `pydoc` and `pickle` on what the package exports, compared with asyncio's.

What is written in Python has its source. What is native has none, as asyncio's C classes.
"""

import asyncio
import inspect
import pickle
import pydoc
import sys
from types import FunctionType
from typing import Any

import pytest
import rondel

OURS = {
    name: getattr(rondel, name)
    for name in rondel.__all__
    if callable(getattr(rondel, name)) and getattr(rondel, name) is not getattr(asyncio, name, None)
}
FUNCTIONS = [name for name, value in OURS.items() if isinstance(value, FunctionType)]
IN_PYTHON = ["EventLoop", "Runner", *(["EventLoopPolicy"] if "EventLoopPolicy" in OURS else [])]
NATIVE = [name for name, value in OURS.items() if isinstance(value, type) and name not in IN_PYTHON]


def outcome(function: Any, value: Any) -> Any:
    try:
        return function(value)
    except (OSError, TypeError) as error:
        return type(error)


@pytest.mark.parametrize("name", IN_PYTHON)
def test_a_class_in_python_has_its_source(name: str) -> None:
    cls = OURS[name]
    assert inspect.getsource(cls).lstrip().startswith(f"class {name}(")
    module = sys.modules[cls.__module__]
    assert inspect.getmodule(cls) is module
    assert inspect.getsourcefile(cls) == inspect.getfile(cls) == module.__file__
    lines, first = inspect.getsourcelines(cls)
    assert inspect.getsource(module).splitlines(keepends=True)[first - 1 : first - 1 + len(lines)] == lines
    for method in vars(cls).values():
        if isinstance(method, FunctionType) and method.__code__.co_filename == module.__file__:
            assert method.__name__ in inspect.getsource(method)


@pytest.mark.parametrize("name", NATIVE)
def test_a_native_class_has_no_source_as_those_in_c(name: str) -> None:
    expected = outcome(inspect.getsource, asyncio.Task)
    assert isinstance(expected, type)
    cls = OURS[name]
    assert outcome(inspect.getsource, cls) in (OSError, expected)
    assert outcome(inspect.getsourcelines, cls) in (OSError, expected)
    assert inspect.getmodule(cls) is rondel
    assert inspect.getdoc(cls)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_their_source(name: str) -> None:
    function, stock = OURS[name], getattr(asyncio, name, None)
    source = inspect.getsource(function)
    assert f"def {function.__name__}(" in source or "def factory(" in source
    assert inspect.getmodule(function) in (rondel, inspect.getmodule(stock))


@pytest.mark.parametrize("name", OURS)
def test_help(name: str) -> None:
    text = pydoc.plain(pydoc.render_doc(OURS[name]))
    assert "Python Library Documentation: " in text
    assert name in text or OURS[name].__name__ in text


def test_help_of_the_package() -> None:
    text = pydoc.plain(pydoc.render_doc(rondel))
    assert "Python's asyncio, implemented in Rust." in text
    for name in ("EventLoop", "Lock", "Task", "create_task", "gather", "install"):
        assert name in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", OURS)
def test_pickle(name: str, protocol: int) -> None:
    ours, stock = OURS[name], getattr(asyncio, name, None)
    if stock is not None and name == "eager_task_factory":
        return  # the result of a function, as asyncio's, which is found under the same name
    assert pickle.loads(pickle.dumps(ours, protocol)) is ours
