"""Runs every code block in README.md and docs/.

A text block after a program is its expected output. Rust blocks are doctests of the crate (see its
lib.rs); this file only checks that they are included there.
"""

import doctest
import json
import operator
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_layers import FLOORS

ROOT = Path(__file__).resolve().parents[2]

# Names and modules that blocks use without defining them: the reader's own program.
PROGRAM = """\
import asyncio
import sys

async def main():
    await asyncio.sleep(0.01)

first = second = main
"""


# tests/ecosystem installs the frameworks, and tests their page; tests/extension builds the module
# of the page on extensions.
ELSEWHERE = [ROOT / "docs" / name for name in ("frameworks.md", "extensions.md")]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted({*(ROOT / "docs").glob("*.md")} - {*ELSEWHERE}),
]
#: Pages without programs.
OTHERS = [ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md")]
#: Not run: text blocks are the output of a program; `console` blocks use a process of the reader's.
NOT_RUN = {"text", "console", "toml"}

SECONDS = re.compile(r"(\d+\.\d) seconds")


def times_in(text):
    return [float(seconds) for seconds in SECONDS.findall(text)]


def blocks_of(document):
    text = document.read_text()
    # What follows the language says how rustdoc is to run the block.
    for block in re.finditer(r"^```(\w*)(?:,no_run)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, block.start()) + 1, block[1], block[2]


def blocks():
    """The blocks to run.

    Document, language, text, expected output if any, and preceding commands.
    """
    for document in DOCUMENTS:
        found = [*blocks_of(document)]
        commands = []
        for number, (line, language, text) in enumerate(found):
            if language in NOT_RUN:
                continue
            after = found[number + 1] if number + 1 < len(found) else (0, "", "")
            printed = after[2] if after[1] == "text" else None
            place = f"{document.relative_to(ROOT)}:{line}"
            yield pytest.param(document, language, text, printed, [*commands], id=place)
            if language == "sh":
                commands += [each for each in text.splitlines() if each.startswith("openssl")]


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


def assert_takes(script, options):
    """Check that a program of this repository knows these options."""
    known = run(sys.executable, script, "--help", cwd=ROOT)
    assert all(option in known for option in options if option.startswith("-"))


def run_shell(line, folder):
    command = shlex.split(line, comments=True)
    if command[0] == "make":
        # Too long to run, and some would run this test again. Target and options are checked
        # instead.
        recipe = run("make", "-n", f"PYTHON={sys.executable}", *command[1:], cwd=ROOT)
        assert recipe
        for options in [argument.removeprefix("ARGS=") for argument in command if argument.startswith("ARGS=")]:
            assert options in recipe
            script = re.search(r"(\S+\.py) " + re.escape(options), recipe)[1]
            assert_takes(script, options.split())
        return
    if command[:3] == ["pip", "install", "-r"]:
        assert (ROOT / command[3]).exists()
        return
    if command[:2] == ["python", "benchmarks/run.py"]:
        assert_takes(command[1], command[2:])
        return
    if command[0] == "openssl":
        if shutil.which("openssl") is None:
            pytest.skip("the command openssl is not installed")
        subprocess.run(command, cwd=folder, capture_output=True, timeout=50, check=True)
        return
    assert Path(command[0]).name in ("python", "rondel"), f"this test does not know how to run {line!r}"
    if command[0] == "rondel" and not Path(sys.executable).with_name("rondel").exists():
        command[:1] = ["python", "-m", "rondel"]  # a build without installation has no command
    (folder / "app.py").write_text(PROGRAM + "asyncio.run(main())\nprint(sys.argv[1:])\n")
    (folder / "package").mkdir(exist_ok=True)
    shutil.copy(folder / "app.py", folder / "package" / "__main__.py")
    arguments = command[command.index("app.py") + 1 :] if "app.py" in command else []
    assert run(*command, cwd=folder) == f"{arguments}\n"


def test_there_are_blocks_of_each_language():
    languages = [block.values[1] for block in blocks()]
    assert {*languages} == {"python", "rust", "sh"}
    assert len(languages) >= 35
    known = {language for document in DOCUMENTS for _, language, _ in blocks_of(document)}
    assert known <= {"python", "rust", "sh"} | NOT_RUN, "a block without a language, or with one that nothing runs"


@pytest.mark.parametrize(("document", "language", "text", "printed", "commands"), [*blocks()])
def test_a_block(document, language, text, printed, commands, tmp_path):
    if language == "python":
        for line in commands:
            run_shell(line, tmp_path)
        output = run_python(text, tmp_path)
        for word in re.findall(r'say_after\(\d, "(\w+)"\)', text):
            assert word in output
        if printed is not None:
            assert SECONDS.sub("some seconds", output) == SECONDS.sub("some seconds", printed)
            # Durations in the output depend on the machine.
            assert all(map(operator.ge, times_in(output), times_in(printed)))
    elif language == "sh":
        for line in text.splitlines():
            run_shell(line, tmp_path)
    else:
        included = re.findall(
            r'include_str!\("\.\./\.\./\.\./(.*?)"\)', (ROOT / "crates/rondel/src/lib.rs").read_text()
        )
        assert str(document.relative_to(ROOT)) in included, "no doctest runs it"


@pytest.mark.parametrize("document", [*DOCUMENTS, *ELSEWHERE, *OTHERS], ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    """Links within the repository; mkdocs checks those of the site."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text()):
        file = document.parent / target if target else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_the_figures_are_those_that_were_recorded():
    """docs/ contains what `make figures` generates from docs/figures.json."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from harness import record
    finally:
        sys.path.pop(0)
    data = json.loads(record.DATA.read_text())
    assert record.PLOT.read_text() == record.svg(data)
    text = record.PAGE.read_text()
    assert text == record.page(text, data)


#: What the paths in ARCHITECTURE.md begin with.
SOURCES = {
    "engine": ROOT / "crates/rondel-engine/src",
    "rust": ROOT / "crates/rondel/src",
    "python": ROOT / "crates/rondel-python/src",
}


def test_the_files_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"`(engine|rust|python)/([\w/]+(?:\.rs|/))`", text)
    assert len(named) > 30
    assert [path for crate, path in named if not (SOURCES[crate] / path).exists()] == []
    # In the tables a file stands under its crate or floor.
    rows = re.findall(r"^\| (?:\d+ \| )?(`[^|]*`) \|", text, re.MULTILINE)
    files = [name for row in rows for name in re.findall(r"`([\w/]+(?:\.rs|/))`", row)]
    assert len(files) > 30
    assert [name for name in files if not any((source / name).exists() for source in SOURCES.values())] == []


def test_the_ways_in_the_architecture_visit_no_file_twice() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    ways = re.findall(r"^## (From .*?)$(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert len(ways) == 4
    for name, way in ways:
        steps = re.findall(r"^\d+\. `([\w/]+\.rs)`", way, re.MULTILINE)
        assert len(steps) >= 3, name
        assert len(steps) == len(set(steps)), name


def test_the_floors_of_the_architecture_are_those_of_the_layer_test() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", text, re.MULTILINE)
    drawn = {int(floor): set(re.findall(r"`(\w+)(?:\.rs|/)`", names)) for floor, names in rows}
    held = {floor: set(folders) - {"panic_probe"} for floor, folders in enumerate(FLOORS)}
    assert drawn == held
