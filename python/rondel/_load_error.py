"""The error message for an extension module that cannot be loaded. Imported only in that case."""

import importlib.machinery
import platform
import sys
import sysconfig
from pathlib import Path

__all__ = ("explain",)

_OLDEST = (3, 11)


def explain(error: ImportError) -> ImportError:
    """Return the error to raise instead of `error`, which importing `rondel._rondel` has raised."""
    folder = Path(__file__).parent
    return ImportError(f"{_reason(error, folder)} ({_interpreter()})", name="rondel._rondel", path=str(folder))


def _interpreter() -> str:
    tag = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
    return f"this is {platform.python_implementation()} {platform.python_version()}, {tag}, at {sys.executable}"


def _reason(error: ImportError, folder: Path) -> str:
    if sys.implementation.name != "cpython":
        return "Rondel runs on CPython only"
    if sys.platform != "linux":
        return f"Rondel runs on Linux only, and not on {sys.platform}"
    if sys.version_info < _OLDEST:
        return "Rondel needs Python 3.11 or newer"
    built = sorted(file.name for file in folder.glob("_rondel.*") if file.suffix in (".so", ".pyd"))
    ours = [name for name in built if name.removeprefix("_rondel") in importlib.machinery.EXTENSION_SUFFIXES]
    again = f"install it with this interpreter: {sys.executable} -m pip install --force-reinstall rondel"
    if ours and error.path is None:
        return str(error)  # by the module itself: the dynamic loader's errors have the file's path
    if ours:
        return f"{folder / ours[0]} does not load: {error}; was it built for another system? If so, {again}"
    if built:
        return f"Rondel was built for another Python ({', '.join(built)} in {folder}); {again}"
    return (
        f"Rondel's extension module is not in {folder}; in a checkout, `make build` or `pip install .` builds it, "
        "and programs have to be run outside of its folder `python`"
    )
