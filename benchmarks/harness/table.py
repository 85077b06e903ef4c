"""The report on the terminal."""

from .cases import Case
from .goals import Verdict
from .measure import Figures
from .results import Results

Row = list[str]
HEAD = ["case", "loop", "CPU µs/op", "user", "system", "median", "op/s", "p50 µs", "p99 µs"]
HEAD_MEMORY = ["case", "loop", "RSS KiB each", "PSS KiB each", "median"]
TAIL = ["peak MiB", "ratio"]


def results_table(results: Results) -> str:
    """Every case and contender, a table for each group."""
    parts = []
    for group in dict.fromkeys(case.group for case in results.cases):
        cases = [case for case in results.cases if case.group == group and results.loops(case)]
        if not cases:
            continue
        head = HEAD_MEMORY if cases[0].in_memory else HEAD
        rows: list[Row | None] = [[*head, *TAIL], None]
        for case in cases:
            for index, loop in enumerate(results.loops(case)):
                rows.append([case.name if index == 0 else "", *_row(results, case, loop)])
        baseline = cases[0].baseline
        parts.append(f"{group} (ratio to {baseline})\n{_aligned(rows)}")
    return "\n\n".join(parts)


def goals_table(verdicts: list[Verdict]) -> str:
    """Every goal with its limit, what was measured and the outcome."""
    rows: list[Row | None] = [["figure to reach", "limit", "measured", ""], None]
    for verdict in verdicts:
        limit, measured = verdict.texts
        outcome = verdict.outcome
        rows.append([verdict.goal.title, limit, measured, outcome.upper() if outcome == "missed" else outcome])
    return _aligned(rows, left=4)


def _row(results: Results, case: Case, loop: str) -> Row:
    best, middle = results.best(case, loop), results.median(case, loop)
    ratio = results.ratio(case, loop, case.baseline)
    tail = [f"{best['peak_rss'] / 2**20:.1f}", "—" if ratio is None else f"{ratio:.2f}"]
    if case.in_memory:
        kib = [best["rss_each"], best["pss_each"], middle["rss_each"]]
        return [loop, *(f"{value / 1024:.2f}" for value in kib), *tail]
    cpu = [best["cpu_us"], best["user_us"], best["system_us"], middle["cpu_us"]]
    return [
        loop,
        *(f"{value:.3f}" for value in cpu),
        f"{best['per_second']:,.0f}",
        _latency(best, "p50_us"),
        _latency(best, "p99_us"),
        *tail,
    ]


def _latency(figures: Figures, name: str) -> str:
    return f"{figures[name]:,.0f}" if name in figures else "—"


def _aligned(rows: list[Row | None], left: int = 2) -> str:
    """Columns side by side, the first `left` of them flush left; None is a rule."""
    filled = [row for row in rows if row is not None]
    widths = [max(len(row[column]) for row in filled) for column in range(len(filled[0]))]
    lines = []
    for row in rows:
        if row is None:
            lines.append("  ".join("─" * width for width in widths))
            continue
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
