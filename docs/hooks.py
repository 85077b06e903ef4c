"""mkdocs hooks.

Adds pages from the repository's root, and changes their links to the site's pages.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}


def on_config(config: Any) -> Any:
    """Remove missing pages from the navigation."""

    def there(entry: Any) -> bool:
        (page,) = entry.values()
        return isinstance(page, list) or page in PAGES.values() or (ROOT / "docs" / page).exists()

    for section in config["nav"]:
        for name, entries in section.items():
            if isinstance(entries, list):
                section[name] = [entry for entry in entries if there(entry)]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are outside of docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text()
        text = re.sub(r"(\]\(|src=\")docs/", r"\1", text)
        for other, its_page in PAGES.items():
            text = text.replace(f"]({other}", f"]({its_page}")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Change links to the repository's files to links to the site's pages."""
    for source, page in PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return markdown
