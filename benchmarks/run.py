"""Measures event loops side by side and shows what came out: `python benchmarks/run.py --help`.

Needs nothing but the standard library, and cargo for the programs in Rust. The interpreter it runs on (or `--python`)
is the one whose installed loops are measured.
"""

import argparse
import fnmatch
import json
import sys
import time
from pathlib import Path

from harness import build, external, goals, loops, machine, plot, record, selfcheck, session, table
from harness.cases import CASES, Case
from harness.measure import Settings
from harness.results import Results

OUT = Path(__file__).parent / "out"
#: Descriptors a run needs: 10,000 connections and some.
DESCRIPTORS = 12_000


def main() -> int:
    options = _parse()
    if options.list:
        print("\n".join(f"{case.name:32}{', '.join(case.loops)}" for case in CASES))
        return 0
    if options.redraw:
        print("\n".join(f"written: {path}" for path in record.write()), file=sys.stderr)
        return 0
    try:
        binaries = options.binaries or build.binaries()
    except build.BuildError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    contenders = loops.find(options.python, binaries, options.loops)
    for notice in contenders.notices():
        print(f"SKIPPED: {notice}", file=sys.stderr)
    for case in options.cases:
        if reason := external.missing(case, options.python):
            print(f"SKIPPED: {case.name}: {reason}", file=sys.stderr)
    machine.raise_descriptor_limit(DESCRIPTORS)
    server_cpu, load_cpu = machine.cores()
    if server_cpu is None:
        print("NOT PINNED: fewer than two cores; figures are of little worth", file=sys.stderr)
    settings = Settings(options.seconds, min(options.seconds / 3, 0.3), server_cpu, load_cpu)
    if options.self_check:
        return selfcheck.run(contenders, settings)

    facts = machine.describe()
    results = session.run(contenders, settings, options.cases, options.rounds)
    report = _report(options, facts, contenders, results)
    print(report)
    _write(options, facts, contenders, results, report)
    if options.record:
        rounds = f"best of {options.rounds} rounds of {options.seconds:g} s"
        record.keep(record.of_run(results, facts, contenders.interpreter, contenders.versions, rounds))
        print("\n".join(f"written: {path}" for path in record.write()), file=sys.stderr)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures event loops side by side.")
    add = parser.add_argument
    add("--cases", metavar="GLOB", help="which cases, e.g. 'streams-echo/*' (a comma between several)")
    add("--loops", default=",".join(loops.ALL), help="which contenders (default: %(default)s)")
    add("--rounds", type=int, help="how often everything is measured (default: 3; with --quick 1)")
    add("--seconds", type=float, help="length of one measurement (default: 0.6; with --quick 0.15)")
    add("--quick", action="store_true", help="one short round: shows that all works, proves no figure")
    add("--goals", action="store_true", help="measure what the figures to reach need, and judge them")
    add("--python", default=sys.executable, help="interpreter with the loops (default: this one)")
    add("--binaries", type=Path, help="folder of the built programs in Rust (default: build them)")
    add("--json", type=Path, default=OUT / "results.json", help="default: %(default)s")
    add("--svg", type=Path, default=OUT / "results.svg", help="default: %(default)s")
    add(
        "--record", action="store_true", help="keep the figures for README and docs: docs/figures.json, plot and tables"
    )
    add("--redraw", action="store_true", help="make plot and tables of docs/figures.json again, and end")
    add("--list", action="store_true", help="list the cases and end")
    add("--self-check", action="store_true", help="check the harness itself and end")
    options = parser.parse_args()

    options.loops = options.loops.split(",")
    unknown = sorted(set(options.loops) - set(loops.ALL))
    if unknown:
        parser.error(f"unknown loops: {', '.join(unknown)}; there are {', '.join(loops.ALL)}")
    options.cases = _cases(options.cases, options.goals)
    if not options.cases:
        parser.error("no case matches; --list shows them")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (0.15 if options.quick else 0.6)
    return options


def _cases(patterns: str | None, only_goals: bool) -> list[Case]:
    if patterns is not None:
        wanted = patterns.split(",")
        return [case for case in CASES if any(fnmatch.fnmatch(case.name, glob) for glob in wanted)]
    if only_goals:
        named = {goal.case for goal in goals.GOALS}
        return [case for case in CASES if case.name in named]
    return CASES


def _lines(options: argparse.Namespace, facts: dict[str, str], contenders: loops.Contenders) -> list[str]:
    versions = ", ".join(f"{loop} {version}" for loop, version in contenders.versions.items() if loop != "floor")
    skipped = "; ".join(contenders.notices())
    return [
        f"{facts['cpu']}, {facts['cores']} cores, {facts['kernel']}, load {facts['load']} at the start",
        f"Python {contenders.interpreter or 'not measured'}",
        f"{versions}; best of {options.rounds} rounds of {options.seconds:g} s",
        *([f"skipped: {skipped}"] if skipped else []),
    ]


def _report(
    options: argparse.Namespace,
    facts: dict[str, str],
    contenders: loops.Contenders,
    results: Results,
) -> str:
    parts = ["\n".join(_lines(options, facts, contenders)), table.results_table(results)]
    if results.failures:
        failed = [f"FAILED: {case} on {loop}: {why}" for (case, loop), why in results.failures.items()]
        parts.append("\n".join(failed))
    if options.goals:
        parts.append(table.goals_table(goals.judge(results)))
    return "\n\n".join(parts)


def _write(
    options: argparse.Namespace,
    facts: dict[str, str],
    contenders: loops.Contenders,
    results: Results,
    report: str,
) -> None:
    data = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts,
        "python": contenders.interpreter,
        "versions": contenders.versions,
        "skipped": contenders.notices(),
        "settings": {"rounds": options.rounds, "seconds": options.seconds},
        "failures": [
            {"case": case, "loop": loop, "reason": reason} for (case, loop), reason in results.failures.items()
        ],
        "results": results.as_json(),
        "goals": [verdict.as_json() for verdict in goals.judge(results)],
    }
    for path, text in (
        (options.json, json.dumps(data, indent=1, ensure_ascii=False) + "\n"),
        (options.svg, plot.svg(results, _lines(options, facts, contenders))),
        (options.json.with_suffix(".txt"), report + "\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("benchmarks: interrupted, nothing written", file=sys.stderr)
        sys.exit(130)
