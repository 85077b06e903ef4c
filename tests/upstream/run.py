#!/usr/bin/env python3
"""Runs the test suites of popular asyncio programs on Rondel.

run.py [--suite aiohttp ...] [--mode loop|full] [-- OPTIONS]

The suites come from their projects' source distributions, pinned in `suites.py`. Each runs on
Rondel. A test that fails runs again on stock asyncio. If it passes there, it runs on Rondel once
more, and counts as failed if it fails again; else it is reported as unsteady. `--thorough` runs the
whole suite on asyncio as well, which also finds tests that are skipped or missing on Rondel. The
running interpreter needs `requirements.txt` and Rondel.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from suites import SUITES, Suite

HERE = Path(__file__).resolve().parent
#: The time limit of a suite, in seconds.
PATIENCE = 3600
#: If more tests than this fail, they do not run again: something is wrong with all of them.
MOST_AGAIN = 400
#: The name of a pseudo test for a suite that did not run.
WHOLE = "the suite itself"


@dataclass
class Outcome:
    """The outcome of a test, and the end of its output."""

    name: str
    why: str = ""

    @property
    def bad(self) -> bool:
        return self.name == "failed"


Outcomes = dict[str, Outcome]


class SuiteRunner:
    """A suite, unpacked into a folder."""

    def __init__(self, suite: Suite, downloads: Path, folder: Path, extra: list[str]) -> None:
        self.suite = suite
        self.extra = extra
        self.folder = _unpack(suite, downloads, folder)

    @cached_property
    def stock(self) -> Outcomes:
        """The results of the whole suite on stock asyncio, for all modes."""
        started = time.monotonic()
        outcomes = self.run("asyncio")
        took = time.monotonic() - started
        failed = sum(outcome.bad for outcome in outcomes.values())
        print(f"  on stock asyncio: {len(outcomes)} tests, {failed} failed, in {took:.0f} s", flush=True)
        return outcomes

    def run(self, implementation: str, tests: list[str] | None = None) -> Outcomes:
        """Run the suite, or some of its tests."""
        handle, journal = tempfile.mkstemp(suffix=".jsonl")
        os.close(handle)
        environment = {
            **os.environ,
            "RONDEL_UPSTREAM": implementation,
            "RONDEL_UPSTREAM_JOURNAL": journal,
            "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        # -P: the suite must test the installed package, not the source next to it.
        command = [sys.executable, "-P", "-m", "pytest", "-p", "rondel_in_place", "-p", "no:cacheprovider", "-q"]
        command += ["-o", "addopts=", *self.suite.options, *self.extra, *(tests or self.suite.tests)]
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            lines = Path(journal).read_text(encoding="utf-8").splitlines()
        finally:
            os.unlink(journal)
        outcomes: Outcomes = {}
        for line in lines:
            entry = json.loads(line)
            # A test that fails in its call and in its teardown has failed once.
            if entry["test"] not in outcomes or entry["outcome"] == "failed":
                outcomes[entry["test"]] = Outcome(entry["outcome"], entry.get("why", ""))
        # 0 and 1: all passed, some failed. 4: a named test was not found. Otherwise the suite did
        # not run.
        if done.returncode not in (0, 1) or not outcomes:
            said = (done.stdout + done.stderr)[-3000:]
            outcomes[WHOLE] = Outcome("failed", f"exit status {done.returncode}\n{said}")
        return outcomes


def _unpack(suite: Suite, downloads: Path, folder: Path) -> Path:
    """Unpack the suite's sdist, downloaded if necessary, without the package itself."""
    archive = downloads / f"{suite.package}-{suite.version}.tar.gz"
    if not archive.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        pinned = f"{suite.package}=={suite.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", suite.package]
        subprocess.run([*command, "--dest", str(downloads), pinned], check=True, timeout=600)
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    unpacked = folder / f"{suite.package}-{suite.version}"
    # Programs that tests start in that folder would import it instead of the installed one.
    shutil.rmtree(unpacked / suite.package, ignore_errors=True)
    return unpacked


def run_suite(runner: SuiteRunner, mode: str, thorough: bool) -> bool:
    """Run a suite on Rondel and print the results. Return whether all is well."""
    suite = runner.suite
    started = time.monotonic()
    ours = runner.run(mode)
    took = time.monotonic() - started
    counts = {name: sum(outcome.name == name for outcome in ours.values()) for name in ("passed", "skipped", "failed")}
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{suite.package} {suite.version}, {mode}: {told} in {took:.0f} s", flush=True)
    well = True
    if thorough:
        for test, outcome in runner.stock.items():
            if outcome.name == "passed" and ours.get(test, Outcome("absent")).name in ("skipped", "absent"):
                print(f"  LOST: {test} passes on asyncio and does not run here")
                well = False
    if counts["passed"] < suite.at_least and not runner.extra:
        print(f"  TOO FEW: at least {suite.at_least} tests have to pass")
        well = False
    failed = {test: outcome for test, outcome in ours.items() if outcome.bad}
    for test in [test for test in failed if test in suite.names_the_loop]:
        print(f"  names asyncio's own loop: {test}: {suite.names_the_loop[test]}")
        del failed[test]
    if lost := failed.pop(WHOLE, None):
        print(f"  FAILED: {WHOLE}\n{_indented(lost.why)}")
        well = False
    return _judge(runner, mode, failed) and well


def _judge(runner: SuiteRunner, mode: str, failed: Outcomes) -> bool:
    """Whether all failures are excused. Prints the reason of each."""
    if not failed:
        return True
    if len(failed) > MOST_AGAIN:
        print(f"  FAILED: {len(failed)} tests; the first of them:\n{_indented(next(iter(failed.values())).why)}")
        return False
    stock = runner.run("asyncio", [*failed])
    left = [test for test in failed if not stock.get(test, Outcome("absent")).bad]
    print(f"  {len(failed) - len(left)} of these fail on asyncio, too")
    if not left:
        return True
    again = runner.run(mode, left)
    for test in left:
        if again.get(test, Outcome("absent")).bad:
            print(
                f"  FAILED: {test} (asyncio: {stock.get(test, Outcome('absent')).name})\n{_indented(failed[test].why)}"
            )
        else:
            print(f"  unsteady: {test} failed, and then passed\n{_indented(failed[test].why[-1500:])}")
    return not any(again.get(test, Outcome("absent")).bad for test in left)


def _indented(text: str) -> str:
    return "\n".join(f"    | {line}" for line in text.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--suite", action="append", choices=sorted(SUITES), help="which; may be repeated; all without it"
    )
    parser.add_argument(
        "--mode",
        action="append",
        choices=["loop", "full"],
        help="asyncio's own functions on Rondel's loop, or rondel.install(); loop without it",
    )
    parser.add_argument("--thorough", action="store_true", help="run the whole suites on stock asyncio as well")
    parser.add_argument(
        "--downloads", type=Path, default=Path(sys.prefix) / "upstream", help="where the source distributions are kept"
    )
    parser.add_argument("options", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    well = True
    with tempfile.TemporaryDirectory() as folder:
        for name in options.suite or sorted(SUITES):
            runner = SuiteRunner(SUITES[name], options.downloads, Path(folder), options.options)
            for mode in options.mode or ["loop"]:
                well &= run_suite(runner, mode, options.thorough)
    sys.exit(not well)


if __name__ == "__main__":
    main()
