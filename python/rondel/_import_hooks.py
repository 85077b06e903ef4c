"""Import hooks: callbacks for other packages' modules, and `import rondel.streams`.

`when_imported` registers a function to call when a module is imported; it imports nothing itself.
Its finder is the first in `sys.meta_path` and knows a few names. The other finders find the module;
ours wraps the loader, so that the function is called when the module is complete, and before the
import statement returns.

`import rondel.streams` gives the module `asyncio.streams` itself. The finder for that is the last
in `sys.meta_path`, so that it does not slow other imports down.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ("alias_asyncio_submodules", "when_imported")

_waiting: dict[str, list[Callable[[ModuleType], None]]] = {}


class _Loader:
    """Wraps a module's loader, to call the registered functions after it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        # The wrapper must leave no trace in the module.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for act in _waiting.pop(module.__name__, ()):
            act(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Finder:
    """Finds modules that have registered functions, with the help of the other finders."""

    def __init__(self) -> None:
        self._finding: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _waiting or name in self._finding:
            return None
        self._finding.add(name)
        try:
            spec = find_spec(name)
        finally:
            self._finding.discard(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


_finder = _Finder()


def when_imported(name: str, act: Callable[[ModuleType], None]) -> None:
    """Call `act` with the module of that name.

    Now if it is imported already, else when it is imported.
    """
    module = sys.modules.get(name)
    if module is not None:
        act(module)
        return
    _waiting.setdefault(name, []).append(act)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _SubmoduleFinder:
    """Finds and loads `rondel.NAME` for each submodule of asyncio."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, submodule = name.partition(".")
        if package != "rondel" or not submodule or find_spec(f"asyncio.{submodule}") is None:
            return None
        return ModuleSpec(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Have the import machinery make an empty module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        # An import statement gives what is in `sys.modules` when this returns. If `create_module`
        # gave asyncio's module, the import machinery would change its `__spec__`.
        name = module.__name__
        sys.modules[name] = import_module(f"asyncio.{name.partition('.')[2]}")


def alias_asyncio_submodules() -> None:
    """Make `import rondel.NAME` give `asyncio.NAME`, unless the package has such a module."""
    sys.meta_path.append(_SubmoduleFinder())
