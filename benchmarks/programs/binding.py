"""Binds the name `asyncio` in a benchmark program to the loop under measurement.

A program is written once against a module called `asyncio` and is measured in one of two forms:

* ``loop``: asyncio's own functions (its `sleep`, `gather`, streams …) on the event loop under measurement;
* ``module``: the loop's whole module in place of asyncio, if it has one (`import rondel as asyncio`). A loop that
  has none is measured as in the form ``loop``.
"""

import asyncio
import importlib
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")

#: Loops whose package offers asyncio's whole surface.
WITH_MODULE = {"rondel"}


class Binding(NamedTuple):
    """What a program needs of its loop."""

    #: The module a program calls `asyncio`.
    asyncio: Any
    #: Runs a coroutine to its end on a new loop.
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    #: Version of the loop's package; of Python for asyncio.
    version: str


def bind(name: str, form: str) -> Binding:
    """The binding for the loop `name` in `form` (``loop`` or ``module``)."""
    if name == "asyncio":
        return Binding(asyncio, _run_on(asyncio.SelectorEventLoop), "")
    if name == "asyncio-beside-rondel":
        importlib.import_module("rondel")
        return Binding(asyncio, _run_on(asyncio.SelectorEventLoop), _version("rondel"))
    if name.startswith("aiofastnet"):
        return _with_aiofastnet(name)
    package = importlib.import_module(name)
    version = _version(name)
    if form == "module" and name in WITH_MODULE:
        return Binding(package, package.run, version)
    return Binding(asyncio, _run_on(package.new_event_loop), version)


def _with_aiofastnet(name: str) -> Binding:
    """asyncio's loop, or the one that the name ends with, with transports of aiofastnet's."""
    aiofastnet = importlib.import_module("aiofastnet")
    base = name.removeprefix("aiofastnet").lstrip("-")
    new_event_loop = importlib.import_module(base).new_event_loop if base else asyncio.SelectorEventLoop
    return Binding(asyncio, _run_on(lambda: aiofastnet.patch_loop(new_event_loop())), _version("aiofastnet"))


def _run_on(new_event_loop: Callable[[], Any]) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(coroutine)

    return run


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a distribution"
