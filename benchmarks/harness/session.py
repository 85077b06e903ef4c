"""Runs every case on every contender, interleaved: one round measures everything once, so that a machine that warms up
or slows down does so for all of them."""

import sys
import time
from collections.abc import Callable

from . import external
from .cases import Case
from .loops import Contenders
from .measure import Figures, MeasurementError, Settings, measure
from .results import Results, key

Measure = Callable[[Contenders, Settings, Case, str], Figures]


def run(
    contenders: Contenders,
    settings: Settings,
    cases: list[Case],
    rounds: int,
    measure: Measure = measure,
) -> Results:
    """Measures; a measurement that fails is reported and not tried again, and the run goes on."""
    results = Results(cases)
    total = rounds * sum(len(_measured(case, contenders)) for case in cases)
    done = 0
    begin = time.monotonic()
    for number in range(rounds):
        for case in cases:
            # Every other round backwards: nobody always has the same predecessor.
            order = _measured(case, contenders)[:: -1 if number % 2 else 1]
            for loop in order:
                done += 1
                if (case.name, loop) in results.failures:
                    continue
                head = f"[{done}/{total}] round {number + 1} {case.name} {loop}"
                try:
                    figures = measure(contenders, settings, case, loop)
                except MeasurementError as error:
                    results.failures[case.name, loop] = str(error)
                    _say(f"{head}: FAILED: {error}")
                    continue
                results.add(case, loop, figures)
                unit = "B each" if case.in_memory else "µs"
                _say(f"{head}: {figures[key(case)]:.2f} {unit}")
    for name, loop in results.failures:
        # Rounds before the failure do not stand: a contender that fails now and then has no figure.
        results.rounds.get(name, {}).pop(loop, None)
    _say(f"{done} measurements in {time.monotonic() - begin:.0f} s")
    return results


def _measured(case: Case, contenders: Contenders) -> list[str]:
    if external.missing(case, contenders.python):
        return []
    return [loop for loop in case.loops if contenders.can_run(loop, case.form)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
