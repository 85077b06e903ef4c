"""Sums up the rounds of a run and holds everything that is shown: the source of table, plot, goals and JSON."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .cases import Case
from .measure import Figures


@dataclass
class Results:
    """Measurements by case and contender, in the order in which they were made."""

    cases: list[Case]
    rounds: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    #: Reason by (case, contender), of measurements that failed.
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, case: Case, loop: str, figures: Figures) -> None:
        """Keeps one measurement."""
        self.rounds.setdefault(case.name, {}).setdefault(loop, []).append(figures)

    def loops(self, case: Case) -> list[str]:
        """The contenders of `case` that were measured, in the case's order."""
        measured = self.rounds.get(case.name, {})
        return [loop for loop in case.loops if loop in measured]

    def best(self, case: Case, loop: str) -> Figures:
        """The round with the least CPU time (or memory), whole: user and system belong to the same round. Latency and
        throughput are each the best of all rounds."""
        rounds = self.rounds[case.name][loop]
        best = dict(min(rounds, key=lambda figures: figures[key(case)]))
        for name in ("p50_us", "p99_us"):
            if name in best:
                best[name] = min(figures[name] for figures in rounds)
        if "per_second" in best:
            best["per_second"] = max(figures["per_second"] for figures in rounds)
        best["peak_rss"] = max(figures["peak_rss"] for figures in rounds)
        return best

    def median(self, case: Case, loop: str) -> Figures:
        """The median of each figure over the rounds."""
        rounds = self.rounds[case.name][loop]
        return {name: median(figures[name] for figures in rounds) for name in rounds[0]}

    def ratio(self, case: Case, loop: str, baseline: str) -> float | None:
        """The best of `loop` over the best of `baseline`; None when one of them was not measured."""
        measured = self.rounds.get(case.name, {})
        if loop not in measured or baseline not in measured:
            return None
        divisor = self.best(case, baseline)[key(case)]
        return self.best(case, loop)[key(case)] / divisor if divisor > 0 else None

    def difference(self, case: Case, loop: str, other: str) -> float | None:
        """How much more the best of `loop` is than the best of `other`; None when one of them was not measured."""
        measured = self.rounds.get(case.name, {})
        if loop not in measured or other not in measured:
            return None
        return self.best(case, loop)[key(case)] - self.best(case, other)[key(case)]

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            case.name: {
                loop: {
                    "best": self.best(case, loop),
                    "median": self.median(case, loop),
                    "rounds": self.rounds[case.name][loop],
                    f"ratio_to_{case.baseline}": self.ratio(case, loop, case.baseline),
                }
                for loop in self.loops(case)
            }
            for case in self.cases
            if self.loops(case)
        }


def key(case: Case) -> str:
    """The figure that counts in `case`."""
    return "rss_each" if case.in_memory else "cpu_us"
