"""All probes of the interpreter succeed, and docs/new-cpython.md lists them.

A probe that fails has a fallback, which is only slower: a new interpreter would fail it unnoticed.
"""

import re
import sysconfig
from pathlib import Path

import pytest
from rondel import _rondel

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "crates" / "rondel-python" / "src"
PAGE = (ROOT / "docs" / "new-cpython.md").read_text()


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="most are not for free-threaded builds")
@pytest.mark.parametrize("probe", _rondel.probes())
def test_a_probe_finds_what_it_looks_for(probe):
    if probe == "tls" and not hasattr(pytest.importorskip("_ssl"), "__file__"):
        pytest.skip("OpenSSL is linked in statically")
    assert _rondel.probes()[probe]


def test_each_probe_is_on_the_page():
    missing = [probe for probe in _rondel.probes() if not re.search(rf"[`/]{probe}(\.rs`|/)", PAGE)]
    assert missing == []


def test_files_on_the_page_are_there():
    named = re.findall(r"`([\w./-]+\.(?:rs|pyi?|to?ml|txt|yml|md))`", PAGE)
    folders = (ROOT, SOURCES, ROOT / "python" / "rondel", ROOT / ".github" / "workflows")
    missing = [name for name in named if not any((folder / name).exists() for folder in folders)]
    assert len(named) > 40
    assert missing == []


def test_each_symbol_that_headers_do_not_declare_is_on_the_page():
    declared = set()
    for file in SOURCES.rglob("*.rs"):
        for block in re.findall(r'unsafe extern "C" \{\n(.*?)\n\s*\}\n', file.read_text(), re.DOTALL):
            declared.update(re.findall(r"\bfn (_?Py\w+)\(", block))
    assert declared
    assert {name for name in declared if f"`{name}`" not in PAGE} == set()
