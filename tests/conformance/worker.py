"""Runs tests of one module of `test.test_asyncio`, in a process that run.py starts.

worker.py MODE MODULE REPORT CLASS.TEST ...

It appends lines of JSON to REPORT: the tests of the module; the beginning and the end of each test
that runs. The process ends at the first failure. If it ends otherwise, run.py finds out why.
"""

import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
import traceback
import unittest
from typing import Any

import in_place
from test import support

# By default half a minute and five minutes: too long to notice a hang. Test modules read them at
# import.
support.SHORT_TIMEOUT, support.LONG_TIMEOUT = 10.0, 30.0


class Reporter(unittest.TestResult):
    def __init__(self, report: Any) -> None:
        super().__init__()
        self.report = report
        self.verdict: tuple[str, str] | None = None
        self.running = False

    def say(self, **event: object) -> None:
        print(json.dumps(event), file=self.report, flush=True)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.verdict, self.running = None, True
        self.say(begin=name_of(test))

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.running = False
        status, why = self.verdict or ("passed", "")
        self.say(end=name_of(test), status=status, why=why)
        if status == "failed":
            os._exit(0)  # what a failed test leaves behind, such as a running loop, could break the next test

    def note(self, test: Any, status: str, why: str) -> None:
        if not self.running:  # the whole class: its fixture failed, or it is skipped
            self.say(
                whole=test.__class__.__name__ if hasattr(test, "_testMethodName") else str(test), status=status, why=why
            )
        elif self.verdict is None or self.verdict[0] == "skipped":
            self.verdict = status, why

    def failed(self, test: Any, error: Any) -> None:
        self.note(test, "failed", " | ".join(traceback.format_exception_only(*error[:2])[-1].split("\n"))[:300])

    addError = addFailure = failed

    def addSubTest(self, test: Any, subtest: Any, error: Any) -> None:
        if error:
            self.failed(test, error)

    def addSkip(self, test: Any, reason: str) -> None:
        self.note(test, "skipped", reason)

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.note(test, "failed", "passed, though it is marked as failing")


def name_of(test: unittest.TestCase) -> str:
    return f"{type(test).__name__}.{test._testMethodName}"


def tests_of(module: Any) -> list[unittest.TestCase]:
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    load = unittest.defaultTestLoader.getTestCaseNames
    return [
        cls(name)
        for cls in classes
        if issubclass(cls, unittest.TestCase) and cls.__module__ == module.__name__
        for name in load(cls)
    ]


def main(mode: str, module_name: str, path: str, *chosen: str) -> None:
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
    support.use_resources = ["subprocess", "cpu", "walltime"]  # all resources except the network
    in_place.put(mode)
    with open(path, "a", buffering=1) as report:
        reporter = Reporter(report)
        try:
            module = importlib.import_module(f"test.test_asyncio.{module_name}")
        except unittest.SkipTest as skip:
            reporter.say(plan=[], skipped=str(skip))
            return
        in_place.adapt(module, mode)
        tests = tests_of(module)
        reporter.say(plan=[name_of(test) for test in tests])
        tests = [test for test in tests if name_of(test) in chosen]
        try:
            # One suite per class, so that class fixtures run.
            unittest.TestSuite(tests).run(reporter)
        except BaseException as error:
            # Such as a KeyboardInterrupt that a test did not catch.
            reporter.say(escaped=f"{type(error).__name__}: {error}")
    os._exit(0)  # don't wait for threads that a loop left behind


if __name__ == "__main__":
    main(*sys.argv[1:])
