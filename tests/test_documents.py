"""Every block of code in README.md and docs/ does what it says. (The Rust ones of the README are doctests of the crate.)"""

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What a block takes for granted: the reader's own program.
PROGRAM = """\
import asyncio
import sys

async def main():
    await asyncio.sleep(0.01)

first = second = main
"""


def blocks():
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if document.name == "frameworks.md":
            continue  # tests/ecosystem has the frameworks, and tests it
        text = document.read_text()
        for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start()) + 1
            yield pytest.param(block[1], block[2], id=f"{document.name}:{line}")


def run(*command, cwd):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    process = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


def run_python(text, folder):
    if ">>>" in text:
        text = "".join(example.source for example in doctest.DocTestParser().get_examples(text))
    if sys.version_info < (3, 12):
        text = re.sub(r"^asyncio\.run\(.*loop_factory.*$", "", text, flags=re.MULTILINE)  # new in 3.12
    (folder / "block.py").write_text(PROGRAM + text)
    return run(sys.executable, "-W", "error", "block.py", cwd=folder)


def run_shell(line, folder):
    command = shlex.split(line, comments=True)
    if command[0] == "make":
        # Too long, and some would run this test again. What can be wrong is the target, and the options for its program.
        recipe = run("make", "-n", f"PYTHON={sys.executable}", *command[1:], cwd=ROOT)
        assert recipe
        for options in [argument.removeprefix("ARGS=") for argument in command if argument.startswith("ARGS=")]:
            assert options in recipe
            script = re.search(r"(\S+\.py) " + re.escape(options), recipe)[1]
            known = run(sys.executable, script, "--help", cwd=ROOT)
            assert all(option in known for option in options.split() if option.startswith("-"))
        return
    assert Path(command[0]).name in ("python", "rondel"), f"this test does not know how to run {line!r}"
    (folder / "app.py").write_text(PROGRAM + "asyncio.run(main())\nprint(sys.argv[1:])\n")
    (folder / "package").mkdir(exist_ok=True)
    shutil.copy(folder / "app.py", folder / "package" / "__main__.py")
    arguments = command[command.index("app.py") + 1 :] if "app.py" in command else []
    assert run(*command, cwd=folder) == f"{arguments}\n"


def test_there_are_blocks_of_each_language():
    languages = [block.values[0] for block in blocks()]
    assert {*languages} == {"python", "rust", "sh"}
    assert len(languages) >= 9


@pytest.mark.parametrize(("language", "text"), [*blocks()])
def test_a_block(language, text, tmp_path):
    if language == "python":
        output = run_python(text, tmp_path)
        for word in re.findall(r'say_after\(\d, "(\w+)"\)', text):
            assert word in output
    elif language == "sh":
        for line in text.splitlines():
            run_shell(line, tmp_path)
    else:
        assert language == "rust", "a block without a language, or with one that nothing runs"
