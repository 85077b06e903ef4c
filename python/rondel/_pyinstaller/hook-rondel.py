"""A hook for PyInstaller: the extension module imports modules that no import statement names."""

from PyInstaller.utils.hooks import collect_submodules  # type: ignore[import-untyped,import-not-found,unused-ignore]

hiddenimports = [
    *collect_submodules("rondel", filter=lambda name: not name.startswith("rondel._pyinstaller")),
    *collect_submodules("asyncio"),
]
