"""Processes that `multiprocessing` starts afresh (`spawn`, `forkserver`), when the program was started by `python -m rondel`.

Such a child begins with what its parent tells it: where modules are found, and which the main module is. Something that
installs Rondel when it is unpickled is put in there, so that it is done before the child imports anything of the program.
What `subprocess.run([sys.executable, …])` starts is another program, and stays as it is.
"""

import os
import sys
from types import ModuleType
from typing import Any

from ._import_hooks import when_imported

__all__ = ("install_in_children",)

_KEY = "rondel"


def _install_here() -> None:
    from ._install import install

    install()
    install_in_children()


class _Install:
    """Unpickled in a child, it installs Rondel there."""

    def __reduce__(self) -> Any:
        # Not by name: the child may find the package only where its parent says that modules are, which it is told later.
        home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        code = "import sys\nhome in sys.path or sys.path.append(home)\nimport rondel._spawn\nrondel._spawn._install_here()\n"
        return exec, (code, {"home": home})


def install_in_children() -> None:
    """Have the processes that `multiprocessing` starts from now on begin with `rondel.install()`."""
    when_imported("multiprocessing.spawn", _tell_children)


def _tell_children(spawn: ModuleType) -> None:
    prepare = spawn.get_preparation_data
    if hasattr(prepare, "__wrapped__"):
        return

    def get_preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = prepare(name)
        if "rondel" in sys.modules:
            data[_KEY] = _Install()
        return data

    get_preparation_data.__wrapped__ = prepare  # type: ignore[attr-defined]
    spawn.get_preparation_data = get_preparation_data  # type: ignore[attr-defined]
