"""The blocks of docs/extensions.md: the Rust ones are compiled, the Python ones run."""

import asyncio
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

rust = pytest.importorskip("rondel_pyo3_testing", reason="make test-extension builds it")

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extensions.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def my_extension() -> Iterator[None]:
    """The tutorial's module, which is in the same library."""
    loader = importlib.machinery.ExtensionFileLoader("my_extension", rust.__file__)
    spec = importlib.util.spec_from_loader("my_extension", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules["my_extension"] = module
    yield
    del sys.modules["my_extension"]


def test_the_rust_blocks_are_the_module() -> None:
    code = (ROOT / "crates/rondel-pyo3/testing/src/tutorial.rs").read_text()
    blocks = [text for language, text in BLOCKS if language == "rust"]
    assert len(blocks) >= 7
    for block in blocks:
        assert block in code
        code = code.replace(block, "")
    assert "fn " not in code, "code that the page does not have"


def programs() -> Iterator[Any]:
    for number, (language, text) in enumerate(BLOCKS):
        if language == "python":
            printed, expected = BLOCKS[number + 1]
            assert printed == "text"
            yield pytest.param(text, expected, id=f"block {number}")


@pytest.mark.usefixtures("my_extension")
@pytest.mark.parametrize(("program", "expected"), [*programs()])
def test_a_program_prints_what_the_page_says(run, monkeypatch, capsys, program, expected) -> None:
    monkeypatch.setattr(asyncio, "run", run)
    exec(compile(program, "extensions.md", "exec"), {})
    assert capsys.readouterr().out == expected


def test_no_block_is_left_out() -> None:
    # `console` and `toml` blocks are of a project of the reader's.
    assert {language for language, _ in BLOCKS} == {"rust", "python", "text", "console", "toml"}
