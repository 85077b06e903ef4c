"""Installs Rondel in the child processes of `multiprocessing` (`spawn`, `forkserver`).

Used when the program was started by `python -m rondel`. The parent sends preparation data to such a
child: `sys.path`, the name of the main module. An object is added that installs Rondel when it is
unpickled, which happens before the child imports anything of the program. What
`subprocess.run([sys.executable, …])` starts is another program, and is left alone.
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
    """Installs Rondel when it is unpickled."""

    def __reduce__(self) -> Any:
        # Not by a reference to a function: the child gets `sys.path` only later in the preparation
        # data, and may not find the package before.
        home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        code = "import sys\nhome in sys.path or sys.path.append(home)\nimport rondel._spawn\nrondel._spawn._install_here()\n"
        return exec, (code, {"home": home})


def install_in_children() -> None:
    """Make processes that `multiprocessing` starts from now on call `install()` first."""
    when_imported("multiprocessing.spawn", _patch_spawn)


def _patch_spawn(spawn: ModuleType) -> None:
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
