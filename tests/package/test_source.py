"""The shape of source files: comments within 100 columns, openings, and the length of Rust files."""

import io
import re
import shutil
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 100
MOST_LINES = 700
# Longer than that, and why.
LONGER = {}


def tracked(*patterns):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "--", *patterns], capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def wide_comments(file):
    text = file.read_text()
    if file.suffix == ".py":
        starts = {
            token.start[0]
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
        }
    else:
        mark = r"\s*//" if file.suffix == ".rs" else r"\s*#"
        starts, is_code = set(), False
        for number, line in enumerate(text.splitlines(), 1):
            if re.match(r"\s*//[/!]\s*```", line):
                is_code = not is_code  # an example, which is no comment
            elif re.match(mark, line) and not is_code:
                starts.add(number)
    return [
        f"{file.relative_to(ROOT)}:{number}"
        for number, line in enumerate(text.splitlines(), 1)
        # A line of a table, or an address, cannot be wrapped.
        if number in starts and len(line) > WIDTH and not re.search(r"^\s*//[/!] \||https?://\S{40}", line)
    ]


def test_comments_are_within_100_columns():
    files = tracked(
        "*.rs", "*.py", "Makefile", ".ci/*", "*.toml", ":!crates/rondel/Cargo.toml", ".github/*.yml", "*.txt"
    )
    assert len(files) > 300
    assert [place for file in files for place in wide_comments(file)] == []


def test_each_rust_file_says_what_it_owns():
    files = tracked("*.rs")
    assert [str(file.relative_to(ROOT)) for file in files if not file.read_text().startswith("//!")] == []


def test_no_rust_file_is_too_long():
    long = {}
    for file in tracked("crates/*/src/**/*.rs"):
        lines = file.read_text().count("\n")
        if lines > MOST_LINES:
            long[str(file.relative_to(ROOT))] = lines
    assert set(long) == set(LONGER), long
