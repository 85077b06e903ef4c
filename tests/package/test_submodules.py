"""asyncio's submodules under Rondel's name.

`rondel.streams` is `asyncio.streams`, as an attribute and by `import`.
"""

import asyncio
import importlib
import pkgutil
import sys

import pytest
import rondel
from child_programs import output


def importable() -> list[str]:
    found = []
    for module in pkgutil.iter_modules(asyncio.__path__):
        if module.name == "__main__":
            continue  # Rondel has one of its own
        try:
            importlib.import_module(f"asyncio.{module.name}")
        except ImportError:
            assert module.name.startswith("windows_")
        else:
            found.append(module.name)
    return found


SUBMODULES = importable()
# asyncio imports these itself, so a program can use them without an import statement.
LOADED = [name for name in SUBMODULES if name not in ("proactor_events", "tools")]


def test_the_list_is_complete():
    assert {"runners", "sslproto", "streams", "subprocess", "unix_events"} < set(LOADED)


@pytest.mark.parametrize("name", LOADED)
def test_each_is_an_attribute(name):
    assert getattr(rondel, name) is getattr(asyncio, name) is sys.modules[f"asyncio.{name}"]


@pytest.mark.parametrize("name", SUBMODULES)
def test_each_can_be_imported(name):
    stock = sys.modules[f"asyncio.{name}"]
    spec, loader = stock.__spec__, stock.__loader__
    assert importlib.import_module(f"rondel.{name}") is stock
    assert getattr(rondel, name) is stock
    assert (stock.__name__, stock.__package__) == (f"asyncio.{name}", "asyncio")
    assert stock.__spec__ is spec
    assert stock.__loader__ is loader


# `PACKAGE` is asyncio or rondel: a program before and after search and replace.
IMPORTS = """
import PACKAGE.streams
import PACKAGE.sslproto as tls
import PACKAGE.proactor_events
from PACKAGE import subprocess, taskgroups
from PACKAGE.runners import _cancel_all_tasks
from PACKAGE.streams import FlowControlMixin

for module in (PACKAGE.streams, tls, PACKAGE.proactor_events, subprocess, taskgroups, PACKAGE.events):
    print(module.__name__, module.__spec__.name)
print(_cancel_all_tasks.__module__, FlowControlMixin.__mro__[-2])
print(subprocess.PIPE, PACKAGE.subprocess.DEVNULL, issubclass(PACKAGE.StreamReaderProtocol, FlowControlMixin))
for name in ("windows_events", "nothing", "streams.nothing"):
    try:
        __import__("PACKAGE." + name)
    except ImportError as error:
        print(type(error), str(error).replace("PACKAGE", "NAME"))
"""


def test_import_statements(impl):
    package = impl.module.__name__
    stock = output(impl, IMPORTS.replace("PACKAGE", "asyncio"))
    assert output(impl, IMPORTS.replace("PACKAGE", package)) == stock


def test_private_names():
    assert rondel.streams.FlowControlMixin is asyncio.streams.FlowControlMixin
    assert rondel.runners._cancel_all_tasks is asyncio.runners._cancel_all_tasks


def test_the_packages_own_modules_are_private():
    own = [module.name for module in pkgutil.iter_modules(rondel.__path__)]
    assert [name for name in own if not name.startswith("_")] == []
