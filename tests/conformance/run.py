#!/usr/bin/env python3
"""Runs CPython's own asyncio tests on Rondel.

run.py [--mode loop|full] [--module test_tasks ...] [--test PATTERN]

The tests are those of the running interpreter, in which Rondel must be importable. `in_place.py`
replaces asyncio's classes. Each test module runs in a process of its own. A test that fails runs
again alone. If it fails again, it runs on stock asyncio: only a test that stock asyncio passes
counts as failed. `white_box.txt` lists the tests that inspect the internals of the stock loop, each
with the reason. An entry whose test passes counts as a failure, so that the list stays correct.
"""

import argparse
import collections
import concurrent.futures
import fnmatch
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

HERE = pathlib.Path(__file__).resolve().parent
GOOD = ("passed", "skipped")


@dataclass
class Entry:
    """A line of white_box.txt: `pattern | where | reason`."""

    pattern: str
    where: str
    reason: str
    met: bool = field(default=False)

    def applies(self, mode: str) -> bool:
        """Whether all parts of `where` match: `any`, `full`, `<3.14`, `full >=3.12`, `skip`."""
        compare = {"<": int.__lt__, ">=": int.__ge__}
        for word in self.where.split():
            if version := re.fullmatch(r"(<|>=)3\.(\d+)", word):
                if not compare[version[1]](sys.version_info.minor, int(version[2])):
                    return False
            elif word in ("loop", "full") and word != mode:
                return False
        return True

    @property
    def skipped(self) -> bool:
        return "skip" in self.where.split()


def read_entries(mode: str) -> list[Entry]:
    lines = (HERE / "white_box.txt").read_text().splitlines()
    entries = [Entry(*(part.strip() for part in line.split("|", 2))) for line in lines if line and line[0] != "#"]
    return [entry for entry in entries if entry.applies(mode)]


class Runner:
    def __init__(self, options: argparse.Namespace, folder: pathlib.Path) -> None:
        self.options = options
        self.folder = folder
        entries = read_entries(options.mode)
        self.skips = [entry.pattern for entry in entries if entry.skipped]
        self.expected = [entry.pattern for entry in entries if not entry.skipped]
        self.environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")

    def run_module(self, module: str) -> dict[str, dict[str, str]]:
        """The outcome of each test of a module, by its full name."""
        results: dict[str, dict[str, str]] = {}
        planned = self.chosen(module, self.run_process(self.options.mode, module, [])[0])
        while planned:
            _, ended = self.run_process(self.options.mode, module, planned)
            results.update(ended)
            planned = [test for test in planned if test not in ended]
            if not ended:
                results.update(
                    {test: {"status": "failed", "why": "the process ended without a word"} for test in planned}
                )
                break
        for test, result in results.items():
            if result["status"] not in GOOD and not self.is_expected(f"{module}.{test}"):
                _, again = self.run_process(self.options.mode, module, [test])
                if again.get(test, result)["status"] in GOOD:
                    result.update(status="passed", note=f"only the second time: {result['why']}")
                    continue
                _, stock = self.run_process("stock", module, [test])
                if stock.get(test, {}).get("status") != "passed":
                    result["status"] = "not on stock either"
        return {f"{module}.{test}": result for test, result in results.items()}

    def chosen(self, module: str, tests: list[str]) -> list[str]:
        names = [(test, f"{module}.{test}") for test in tests]
        return [
            test
            for test, name in names
            if fnmatch.fnmatchcase(name, self.options.test)
            and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.skips)
        ]

    def is_expected(self, name: str) -> bool:
        """Whether the test is listed, so that it need not run again."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.expected)

    def run_process(self, mode: str, module: str, tests: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
        """One process: the tests it has to run, and the outcome of those it began."""
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=f"{module}-")
        os.close(handle)
        report, log = pathlib.Path(name), pathlib.Path(name + ".log")
        command = [sys.executable, "-W", "ignore::DeprecationWarning", str(HERE / "worker.py"), mode, module, name]
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [*command, *tests],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            hung = self.watch(process, module, report)
        return self.read(report, log, tests, hung)

    def watch(self, process: subprocess.Popen[bytes], module: str, report: pathlib.Path) -> bool:
        """Waits for the process. Returns whether it was killed because no test made progress."""
        size, since, hung, limit = 0, time.monotonic(), False, self.options.timeout
        while process.poll() is None and not hung:
            time.sleep(0.02)
            if (now := report.stat().st_size) != size:
                size, since = now, time.monotonic()
                limit = self.patience(module, report)
            hung = time.monotonic() - since > limit
        if hung:
            process.send_signal(signal.SIGABRT)  # faulthandler writes the stack
            time.sleep(0.5)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        return hung

    def patience(self, module: str, report: pathlib.Path) -> float:
        """The time limit in seconds for the current test.

        It is short for tests that are known to hang.
        """
        lines = report.read_text().splitlines()
        event = json.loads(lines[-1]) if lines and lines[-1].endswith("}") else {}
        listed = "begin" in event and self.is_expected(f"{module}.{event['begin']}")
        return min(self.options.timeout, self.options.patience) if listed else self.options.timeout

    def read(
        self, report: pathlib.Path, log: pathlib.Path, tests: list[str], hung: bool
    ) -> tuple[list[str], dict[str, dict[str, str]]]:
        plan: list[str] = []
        ended: dict[str, dict[str, str]] = {}
        begun = why = None
        for event in map(json.loads, report.read_text().splitlines()):
            if "plan" in event:
                plan = event["plan"]
            elif "begin" in event:
                begun = event["begin"]
            elif "end" in event:
                ended[event["end"]], begun = {"status": event["status"], "why": event["why"]}, None
            elif "whole" in event:
                cls = re.sub(r".*\.(\w+)\)?$", r"\1", event["whole"])
                result = {"status": event["status"], "why": event["why"]}
                ended.update({test: dict(result) for test in tests if test.split(".")[0] == cls and test not in ended})
            else:
                why = event["escaped"] + " escaped from the test"
        if begun is not None:
            ended[begun] = {"status": "failed", "why": why or ("hung" if hung else "crashed: ") + last_words(log)}
        return plan, ended


def last_words(log: pathlib.Path) -> str:
    """Return what faulthandler wrote: the error, and the innermost line in the tests."""
    lines = log.read_text(errors="replace").splitlines()
    fatal = next((line for line in lines if line.startswith("Fatal Python error")), "")
    place = next((line.strip() for line in lines if "/test_asyncio/" in line), "")
    return f" {fatal} {place}"[:300]


def summarize(mode: str, results: dict[str, dict[str, str]], seconds: float, verbose: bool) -> bool:
    """Prints the results. Returns whether all is well."""
    entries = [entry for entry in read_entries(mode) if not entry.skipped]
    failures, expected = [], 0
    for name, result in sorted(results.items()):
        matching = [entry for entry in entries if fnmatch.fnmatchcase(name, entry.pattern)]
        if result["status"] == "failed":
            for entry in matching:
                entry.met = True
            expected += bool(matching)
            if not matching:
                failures.append(f"{name}: {result['why']}")
        elif "note" in result:
            print(f"passed {name} {result['note']}")
        elif verbose and result["status"] == "not on stock either":
            print(f"fails on stock asyncio as well: {name}: {result['why']}")
    stale = [
        entry
        for entry in entries
        if not entry.met
        and any(
            fnmatch.fnmatchcase(name, entry.pattern) and result["status"] == "passed"
            for name, result in results.items()
        )
    ]
    for failure in failures:
        print(f"FAILED {failure}")
    for entry in stale:
        print(f"PASSES, but is listed in white_box.txt: {entry.pattern}")
    counts = collections.Counter(result["status"] for result in results.values())
    version = ".".join(map(str, sys.version_info[:3]))
    print(
        f"Python {version}, mode {mode}: {counts['passed']} passed, {len(failures)} failed, {expected} white-box, "
        f"{counts['not on stock either']} fail on stock asyncio too, {counts['skipped']} skipped ({seconds:.0f} s)"
    )
    return not failures and not stale


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["loop", "full"], action="append", help="both if not given")
    parser.add_argument("--module", action="append", help="a module of test.test_asyncio; all if not given")
    parser.add_argument("--test", default="*", help="a glob on module.Class.test")
    # These tests mostly wait.
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--timeout", type=float, default=40, help="seconds in which a test must end")
    parser.add_argument("--patience", type=float, default=5, help="the same for tests listed in white_box.txt")
    parser.add_argument("--verbose", action="store_true", help="name what fails on stock asyncio as well")
    options = parser.parse_args()
    spec = importlib.util.find_spec("test.test_asyncio") if importlib.util.find_spec("test") else None
    if spec is None or not spec.submodule_search_locations:
        print("SKIPPED: this interpreter comes without CPython's tests (on Debian: libpython3.x-testsuite)")
        return 0
    found = sorted(path.stem for path in pathlib.Path(spec.submodule_search_locations[0]).glob("test_*.py"))
    # The longest modules come first, so that none of them runs alone at the end.
    long = (
        "test_tasks",
        "test_ssl",
        "test_subprocess",
        "test_events",
        "test_sendfile",
        "test_streams",
        "test_base_events",
    )
    modules = sorted(options.module or found, key=lambda name: long.index(name) if name in long else len(long))
    well = True
    for mode in options.mode or ["loop", "full"]:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="rondel-conformance-"))
        begun = time.monotonic()
        runner = Runner(argparse.Namespace(**{**vars(options), "mode": mode}), folder)
        try:
            with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
                results = {
                    name: result for part in pool.map(runner.run_module, modules) for name, result in part.items()
                }
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        well &= summarize(mode, results, time.monotonic() - begun, options.verbose)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
