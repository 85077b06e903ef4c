"""The documentation says of each name of asyncio what the Rust face has for it, and what it says is there."""

import asyncio
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def vocabulary():
    spec = importlib.util.spec_from_file_location("rust_vocabulary", ROOT / "docs" / "rust_vocabulary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_name_of_asyncio_has_a_counterpart_or_a_reason(vocabulary):
    assert set(asyncio.__all__) <= set(vocabulary.VOCABULARY)
    for name, entry in vocabulary.VOCABULARY.items():
        assert entry.rondel or entry.note, name


def test_the_table_is_the_one_in_the_documentation(vocabulary):
    document = vocabulary.DOCUMENT.read_text()
    assert document == vocabulary.with_table(document), "run docs/rust_vocabulary.py"


def test_the_rust_names_are_there(vocabulary):
    source = ROOT / "crates" / "rondel" / "src"
    exported = set()
    for group in re.findall(r"^pub use [\w:]+::(\{[^}]*\}|\w+);", (source / "lib.rs").read_text(), re.MULTILINE):
        exported |= set(re.findall(r"\w+", group))
    everything = "\n".join(path.read_text() for path in source.rglob("*.rs"))
    for entry in vocabulary.VOCABULARY.values():
        for name in entry.rondel:
            owner, _, member = name.partition("::")
            assert owner in exported, name
            if member:
                assert re.search(rf"(\bfn {member}\b|^    {member}\b)", everything, re.MULTILINE), name
