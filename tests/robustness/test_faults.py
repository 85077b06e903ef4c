"""Runs the tests in `faults/` with a preloaded library that makes system calls fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "faults"


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    built = tmp_path_factory.mktemp("faults") / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", built, FOLDER / "faults.c"]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True)
    return str(built)


@pytest.mark.timeout(180)
def test_under_faults(impl, library):
    environment = {**os.environ, "LD_PRELOAD": library, "RONDEL_FAULTS": library}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--impl", impl.name, str(FOLDER)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
