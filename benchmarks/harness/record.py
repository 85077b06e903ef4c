"""The figures that README and docs show: kept in docs/figures.json by `run.py --record`, and drawn and tabulated from it.

Only what a reader is shown is kept: the best round of each contender, with machine and versions. `write` makes of it
docs/images/figures.svg and the marked part of docs/performance.md; a test holds them against the file.
"""

import json
import textwrap
import time
from html import escape
from pathlib import Path
from typing import Any

from .results import Results, key

DOCS = Path(__file__).resolve().parents[2] / "docs"
DATA = DOCS / "figures.json"
PLOT = DOCS / "images" / "figures.svg"
PAGE = DOCS / "performance.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"

#: The panels of the plot, in order; one that was not measured is left out.
MAIN = {
    "uvicorn-httptools/plaintext": "uvicorn (httptools), plaintext",
    "aiohttp-server/plaintext": "aiohttp server, plaintext",
    "asyncpg": "asyncpg, a query",
    "streams-echo/100x1KiB": "streams echo, 100 x 1 KiB",
    "protocol-echo/100x1KiB": "protocol echo, 100 x 1 KiB",
    "two-writes/100x1KiB": "two write() in a callback",
    "call-soon": "call_soon",
    "timer-cancelled": "timer set and cancelled",
    "future-ping-pong": "future ping-pong",
    "create-task/own": "create_task and await",
    "gather/own": "gather of 100, each",
    "to-thread/own": "to_thread",
    "idle-memory/10000": "memory of an idle connection",
}
#: The columns of the tables, and the contenders of the plot.
PYTHON = ("asyncio", "uvloop", "rloop", "blazio", "zuvloop", "rondel", "floor")
RUST = ("tokio", "rondel-rust", "floor")

COLUMNS, PANEL, GAP, MARGIN = 3, 280, 28, 20
LABEL, FIGURE, BAR, STEP, TITLE = 62, 66, 11, 17, 28
FOOTNOTE = 10.5
FLOOR = "floor: the kernel's share alone (epoll, recv, send). Each panel has its own scale."

Record = dict[str, Any]


def of_run(
    results: Results, facts: dict[str, str], python: str | None, versions: dict[str, str], settings: str
) -> Record:
    """What is kept of a run."""
    return {
        "made": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{facts['cpu']}, {facts['cores']} cores, {facts['kernel']}",
        "python": (python or "").split(" ")[0],
        "versions": {loop: version for loop, version in versions.items() if loop not in ("asyncio", "floor")},
        "settings": settings,
        "figures": {
            case.name: {
                "unit": "bytes" if case.in_memory else "µs",
                "best": {loop: round(results.best(case, loop)[key(case)], 4) for loop in results.loops(case)},
            }
            for case in results.cases
            if results.loops(case)
        },
    }


def keep(record: Record) -> None:
    """Puts a run in the place of what was kept: all of it, since figures of different runs are not comparable."""
    DATA.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def write() -> list[Path]:
    """Makes plot and tables of what is kept; returns the files written."""
    record = json.loads(DATA.read_text())
    PLOT.parent.mkdir(exist_ok=True)
    PLOT.write_text(svg(record))
    PAGE.write_text(page(PAGE.read_text(), record))
    return [DATA, PLOT, PAGE]


def described(record: Record) -> str:
    """Machine and versions, in a line."""
    versions = ", ".join(f"{loop} {version}" for loop, version in record["versions"].items())
    return f"{record['machine']}; CPython {record['python']}; {versions}; {record['settings']}; {record['made']}"


def page(text: str, record: Record) -> str:
    """The page with its tables replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + tables(record) + END + after


def tables(record: Record) -> str:
    """What was measured, as Markdown, and who was better than Rondel in what."""
    parts = [f"Made with {described(record)}. Best round; less is better.\n"]
    lost = []
    for columns, ours, baseline in ((PYTHON, "rondel", "uvloop"), (RUST, "rondel-rust", "tokio")):
        rows = []
        shown = [loop for loop in columns if any(loop in case["best"] for case in _cases(record, ours))]
        for name, case in record["figures"].items():
            best = case["best"]
            if ours not in best:
                continue
            cells = [_cell(loop, best, case["unit"], ours) for loop in shown]
            ratio = f"{best[ours] / best[baseline]:.2f}" if best.get(baseline) else ""
            rows.append(f"| `{name}` | {case['unit']} | {' | '.join(cells)} | {ratio} |\n")
            better = [loop for loop in shown if loop not in (ours, "floor") and best.get(loop, best[ours]) < best[ours]]
            if better:
                figures = ", ".join(f"{loop} {value(best[loop], case['unit'])}" for loop in better)
                lost.append(f"- `{name}`: {figures}; Rondel {value(best[ours], case['unit'])}\n")
        if rows:
            titles = " | ".join("**Rondel**" if loop == ours else loop for loop in shown)
            parts.append(
                f"| case | | {titles} | Rondel ÷ {baseline} |\n|---|---|{'---|' * (len(shown) + 1)}\n{''.join(rows)}"
            )
    parts.append("Where another one is better than Rondel:\n\n" + ("".join(lost) or "- nowhere in this run\n"))
    return "\n" + "\n".join(parts) + "\n"


def _cases(record: Record, ours: str) -> list[dict[str, Any]]:
    return [case for case in record["figures"].values() if ours in case["best"]]


def _cell(loop: str, best: dict[str, float], unit: str, ours: str) -> str:
    if loop not in best:
        return ""
    text = value(best[loop], unit, plain=True)
    return f"**{text}**" if loop == ours else text


def value(number: float, unit: str, plain: bool = False) -> str:
    """A figure for people; `plain` leaves out a unit that stands elsewhere."""
    if unit == "bytes":
        return f"{number:.0f}" if plain else f"{number / 1024:.1f} KiB" if number >= 1024 else f"{number:.0f} B"
    digits = 0 if number >= 1000 else 1 if number >= 10 else 2 if number >= 1 else 3
    text = f"{number:,.{digits}f}"
    return text if plain else f"{text} µs"


# Colours for light and for dark backgrounds; the background itself is the reader's.
STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",sans-serif;fill:#1f2328}
.quiet{fill:#59636e}.bar{fill:#aab4bf}.floor{fill:none;stroke:#59636e;stroke-dasharray:3 2}.rondel{fill:#d95f0e}
.strong{font-weight:600}
@media(prefers-color-scheme:dark){
text{fill:#e6edf3}.quiet{fill:#9198a1}.bar{fill:#57606a}.floor{stroke:#9198a1}.rondel{fill:#f0883e}}
"""


def svg(record: Record) -> str:
    """The plot: a panel for each main case, a bar for each contender; each panel has a scale of its own."""
    panels = [(title, record["figures"][name]) for name, title in MAIN.items() if name in record["figures"]]
    width = 2 * MARGIN + COLUMNS * PANEL + (COLUMNS - 1) * GAP
    body = [_text(MARGIN, 30, "CPU time per operation, and memory: less is better", 17, "strong")]
    top = 44
    for start in range(0, len(panels), COLUMNS):
        row = panels[start : start + COLUMNS]
        for column, (title, case) in enumerate(row):
            body += _panel(MARGIN + column * (PANEL + GAP), top, title, case)
        top += TITLE + STEP * max(len(_contenders(case)) for _, case in row) + 14
    # An SVG text does not wrap. A letter is on average a little over half as wide as it is high;
    # wider fonts than usual still fit.
    letters = int((width - 2 * MARGIN) / (FOOTNOTE * 0.58))
    for line in (*textwrap.wrap(described(record), letters, break_on_hyphens=False), FLOOR):
        body.append(_text(MARGIN, top + 12, line, FOOTNOTE, "quiet"))
        top += 15
    height = top + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">\n'
        f"<title>Rondel beside other event loops</title>\n<style>{STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _contenders(case: dict[str, Any]) -> list[str]:
    return [loop for loop in PYTHON if loop in case["best"]]


def _panel(left: float, top: float, title: str, case: dict[str, Any]) -> list[str]:
    loops = _contenders(case)
    room = PANEL - LABEL - FIGURE
    scale = room / max(case["best"][loop] for loop in loops)
    parts = [_text(left, top + 17, title, 13, "strong")]
    for index, loop in enumerate(loops):
        y = top + TITLE + index * STEP
        number = case["best"][loop]
        weight = "strong" if loop == "rondel" else ""
        length = max(number * scale, 1.0)
        style = loop if loop in ("rondel", "floor") else "bar"
        parts.append(_text(left + LABEL - 6, y + 9.5, loop, 11, weight, "end"))
        parts.append(f'<rect class="{style}" x="{left + LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="1.5"/>')
        parts.append(_text(left + LABEL + length + 5, y + 9.5, value(number, case["unit"]), 11, weight))
    return parts


def _text(x: float, y: float, text: str, size: float, style: str = "", anchor: str = "start") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'
