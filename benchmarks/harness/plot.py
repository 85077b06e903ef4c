"""The plot: one panel for each case, one bar for each contender, drawn as SVG without any dependency.

The bars of a panel share a linear scale; a dashed line marks the baseline. Who is far beyond it (asyncio, mostly) has a
bar that is cut and says so, so that the others stay comparable. The figures stand in columns of their own.
"""

import textwrap
from html import escape

from .cases import Case
from .results import Results, key

COLUMNS = 3
PANEL_WIDTH = 372
MARGIN = 24
GAP = 28
LABEL = 78
FIGURES = 118
BAR = 13
STEP = 18
TITLE = 30
#: A bar is cut where it is longer than this many times the baseline.
CUT = 3.0

COLOURS = {
    "asyncio": "#b8bec7",
    "uvloop": "#5b6775",
    "rloop": "#a3b18a",
    "blazio": "#7d9bb5",
    "zuvloop": "#5f8f9e",
    "rondel": "#d95f0e",
    "aiofastnet": "#8f8fb5",
    "aiofastnet-uvloop": "#6c6ca0",
    "asyncio-beside-rondel": "#d9b38c",
    "floor": "#2f7d4f",
    "tokio": "#5b6775",
    "rondel-rust": "#d95f0e",
}


def svg(results: Results, subtitle: list[str]) -> str:
    """The whole plot; `subtitle` are lines that name machine and versions."""
    width = 2 * MARGIN + COLUMNS * PANEL_WIDTH + (COLUMNS - 1) * GAP
    body = [_text(MARGIN, 40, "Rondel benchmarks", size=22, weight="bold")]
    top = 62
    # An SVG text does not wrap.
    letters = int((width - 2 * MARGIN) / (12 * 0.58))
    for line in (part for whole in subtitle for part in textwrap.wrap(whole, letters, break_on_hyphens=False)):
        body.append(_text(MARGIN, top, line, size=12, colour="#57606a"))
        top += 17
    for group in dict.fromkeys(case.group for case in results.cases):
        cases = [case for case in results.cases if case.group == group and results.loops(case)]
        if not cases:
            continue
        top += 34
        body.append(_text(MARGIN, top, _heading(cases[0]), size=15, weight="bold"))
        top += 8
        for start in range(0, len(cases), COLUMNS):
            row = cases[start : start + COLUMNS]
            for column, case in enumerate(row):
                left = MARGIN + column * (PANEL_WIDTH + GAP)
                body.append(_panel(results, case, left, top))
            top += TITLE + STEP * max(len(results.loops(case)) for case in row) + 12
    height = top + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _heading(case: Case) -> str:
    unit = "memory of each" if case.in_memory else "CPU per operation"
    return f"{case.group}: {unit}, less is better (x = ratio to {case.baseline})"


def _panel(results: Results, case: Case, left: float, top: float) -> str:
    loops = results.loops(case)
    figures = {loop: results.best(case, loop)[key(case)] for loop in loops}
    baseline = figures.get(case.baseline)
    longest = max(figures.values())
    if baseline:
        longest = min(longest, max(CUT * baseline, baseline))
    room = PANEL_WIDTH - LABEL - FIGURES
    scale = room / longest if longest > 0 else 0.0
    parts = [_text(left, top + 20, case.name, size=13)]
    for index, loop in enumerate(loops):
        y = top + TITLE + index * STEP
        value = figures[loop]
        length = min(max(value, 0.0) * scale, room)
        bold = "bold" if loop.startswith("rondel") else "normal"
        parts.append(_text(left + LABEL - 6, y + 10.5, loop, size=11, anchor="end", weight=bold))
        parts.append(
            f'<rect x="{left + LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="1.5" fill="{COLOURS[loop]}"/>'
        )
        if value > longest * 1.001:
            x = left + LABEL + length - 14
            parts.append(f'<path d="M{x:.1f} {y + BAR + 1} l4 -{BAR + 2} h4 l-4 {BAR + 2} z" fill="#ffffff"/>')
        right = left + PANEL_WIDTH
        parts.append(_text(right - 46, y + 10.5, _value(case, value), size=11, anchor="end", weight=bold))
        if baseline:
            ratio = f"{value / baseline:.2f}x"
            parts.append(_text(right, y + 10.5, ratio, size=11, anchor="end", weight=bold))
    if baseline:
        x = left + LABEL + min(baseline * scale, room)
        bottom = top + TITLE + len(loops) * STEP - (STEP - BAR) + 2
        parts.append(
            f'<line x1="{x:.1f}" y1="{top + TITLE - 3}" x2="{x:.1f}" y2="{bottom}" '
            'stroke="#1f2328" stroke-width="1" stroke-dasharray="3 3"/>'
        )
    return "\n".join(parts)


def _value(case: Case, value: float) -> str:
    if case.in_memory:
        return f"{value / 1024:.2f} KiB"
    return f"{value:.1f} µs" if value >= 10 else f"{value:.2f} µs" if value >= 1 else f"{value:.3f} µs"


def _text(
    x: float,
    y: float,
    text: str,
    size: int,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = "#1f2328",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )
