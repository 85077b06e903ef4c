"""The error message when the package has no extension module for this interpreter."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import rondel


@pytest.fixture
def package(tmp_path):
    """A copy of the package without its extension module."""
    folder = tmp_path / "rondel"
    folder.mkdir()
    for file in Path(rondel.__file__).parent.glob("*.py"):
        shutil.copy(file, folder)
    return folder


def error_of_importing(package):
    process = subprocess.run(
        [sys.executable, "-c", "import rondel"],
        env={"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert process.returncode == 1
    error = process.stderr.splitlines()[-1]
    assert error.startswith("ImportError: ")
    soabi = sysconfig.get_config_var("SOABI")
    assert error.endswith(f"(this is CPython {sys.version.split()[0]}, {soabi}, at {sys.executable})")
    return error


def test_it_was_built_for_another_python(package):
    (package / "_rondel.cpython-310-x86_64-linux-gnu.so").touch()
    error = error_of_importing(package)
    assert f"built for another Python (_rondel.cpython-310-x86_64-linux-gnu.so in {package})" in error
    assert f"{sys.executable} -m pip install --force-reinstall rondel" in error


def test_it_was_never_built(package):
    assert f"Rondel's extension module is not in {package}; in a checkout, `make build`" in error_of_importing(package)


def test_it_does_not_load(package):
    module = package / f"_rondel{sysconfig.get_config_var('EXT_SUFFIX')}"
    module.write_bytes(b"not a library")
    error = error_of_importing(package)
    assert f"{module} does not load: {module}: file too short" in error


@pytest.mark.parametrize(
    ("what", "value", "reason"),
    [
        ("sys.version_info", (3, 10, 13), "Rondel needs Python 3.11 or newer"),
        ("sys.platform", "darwin", "Rondel runs on Linux only, and not on darwin"),
        ("sys.implementation.name", "pypy", "Rondel runs on CPython only"),
    ],
)
def test_what_is_not_supported(monkeypatch, what, value, reason):
    from rondel._load_error import explain

    monkeypatch.setattr(what, value)
    error = explain(ImportError("No module named 'rondel._rondel'"))
    assert str(error).startswith(f"{reason} (this is ")
    assert error.name == "rondel._rondel"
