"""The folders of the source import each other in one direction only.

The test reads the text: `use` declarations and paths that begin with `crate`, `super` or `self`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

CRATES = Path(__file__).resolve().parents[2] / "crates"
SOURCE = CRATES / "rondel-python" / "src"

#: The lowest floor comes first. A folder may import only from the floors below its own.
FLOORS = [
    ["cpython"],
    ["monitor", "untracked", "panic_probe"],
    ["kernel_calls", "loop_core"],
    ["handle"],
    ["future"],
    ["awaitable"],
    ["task"],
    ["sleep", "sync"],
    ["waits"],
    ["task_group"],
    ["transport"],
    ["streams"],
    ["tls"],
    ["resolver", "timeouts", "threads"],
    ["event_loop"],
    ["probes"],
    ["lib"],
]
FLOOR = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}

PATH = re.compile(r"(?<![\w:$])(?:crate|super|self)\s*::")
WORD = re.compile(r"\s*(\w+|\*)\s*")


class Import(NamedTuple):
    file: Path
    line: int
    source: str
    target: str


def without_comments(text: str) -> str:
    """Replace strings and comments by spaces, so that all else keeps its position."""
    what = r'//[^\n]*|/\*.*?\*/|c?"(?:\\.|[^"\\])*"'
    return re.sub(what, lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.DOTALL)


def paths(text: str, at: int, prefix: tuple[str, ...] = ()) -> tuple[list[tuple[str, ...]], int]:
    """Return the paths of the use-tree (or expression) at `at`, and its end."""
    found: list[tuple[str, ...]] = []
    word = WORD.match(text, at)
    while word is not None:
        prefix, at = (*prefix, word[1]), word.end()
        if not text.startswith("::", at):
            return [prefix], at
        at += 2
        word = WORD.match(text, at)
    if at < len(text) and text[at : at + 1] == "{":
        at += 1
        while text[at] != "}":
            inner, at = paths(text, at, prefix)
            found += inner
            at = re.compile(r"(?:as\s+\w+)?[\s,]*").match(text, at).end()  # type: ignore[union-attr]
        return found, at + 1
    return [prefix], at  # a generic argument, or the like


def imports(source: Path) -> Iterator[Import]:
    for file in sorted(source.rglob("*.rs")):
        module = list(file.relative_to(source).with_suffix("").parts)
        if module[-1] in {"mod", "lib"}:
            module.pop()
        text = without_comments(file.read_text(encoding="utf-8"))
        folder = module[0] if module else "lib"
        for start in PATH.finditer(text):
            line = text.count("\n", 0, start.start()) + 1
            for path in paths(text, start.start())[0]:
                base, rest = list(module), list(path)
                if rest[0] == "crate":
                    base, rest = [], rest[1:]
                while rest and rest[0] in {"super", "self"}:
                    base = base[:-1] if rest[0] == "super" else base
                    rest = rest[1:]
                target = [*base, *rest]
                # In a module inside a file, `super` is treated as the file's; no such module refers
                # to a folder by it.
                if target and target[0] in FLOOR and target[0] != folder:
                    yield Import(file, line, folder, target[0])


def test_every_folder_has_a_floor() -> None:
    folders = {path.stem for path in SOURCE.iterdir() if path.suffix in {"", ".rs"}}
    assert folders == set(FLOOR)


def test_imports_go_down() -> None:
    upward = [found for found in imports(SOURCE) if FLOOR[found.target] >= FLOOR[found.source]]
    new = [f"{found.file.relative_to(CRATES)}:{found.line}: {found.source} imports {found.target}" for found in upward]
    assert not new, "\n".join(new)


@pytest.mark.parametrize(("crate", "above"), [("rondel-engine", r"pyo3|rondel(?!_engine)"), ("rondel", "pyo3")])
def test_crates_know_nothing_of_those_above(crate: str, above: str) -> None:
    manifest = (CRATES / crate / "Cargo.toml").read_text(encoding="utf-8")
    _, dependencies = manifest.split("[dependencies]")
    names = [name.replace("-", "_") for name in re.findall(r"^([\w-]+)", dependencies, re.MULTILINE)]
    assert names
    assert not [name for name in names if re.fullmatch(above, name)]
    for file in (CRATES / crate / "src").rglob("*.rs"):
        text = without_comments(file.read_text(encoding="utf-8"))
        found = re.search(rf"\b(?:use |extern crate )?(?:{above})::", text)
        assert found is None, f"{file}:{text.count(chr(10), 0, found.start()) + 1}"


def test_paths_are_found() -> None:
    """Tests the parser above: if it found no imports, the other test would always pass."""
    text = "use crate::{cpython::{Object, self}, handle, task::{step as run}};\nlet x = super::f::<u8>();"
    assert paths(text, text.index("crate"))[0] == [
        ("crate", "cpython", "Object"),
        ("crate", "cpython", "self"),
        ("crate", "handle"),
        ("crate", "task", "step"),
    ]
    assert paths(text, text.index("super"))[0] == [("super", "f")]
    assert len(list(imports(SOURCE))) > 500
