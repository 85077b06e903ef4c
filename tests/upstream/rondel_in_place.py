"""A pytest plugin that replaces asyncio's loop by Rondel's, and records the outcome of each test.

`RONDEL_UPSTREAM` is the mode. `asyncio` changes nothing. In `loop`, asyncio's own functions run on
Rondel's loop. `full` is `rondel.install()`. The class of the stock loop is replaced, too, because a
suite that names it means "asyncio's loop". The plugin is loaded with `-p`, before the suite's own
conftest and its imports.
"""

import asyncio
import gc
import json
import os
import sys
from typing import Any, TextIO

import pytest

IMPLEMENTATION = os.environ.get("RONDEL_UPSTREAM", "asyncio")


def put_in_place() -> None:
    """Apply the mode `RONDEL_UPSTREAM` in this process."""
    if IMPLEMENTATION == "asyncio":
        return
    import rondel

    if IMPLEMENTATION == "full":
        rondel.install()
    elif policy := getattr(rondel, "EventLoopPolicy", None):
        asyncio.events._event_loop_policy = policy()  # type: ignore[attr-defined]  # setting it is deprecated from 3.14 on
    stock = asyncio.SelectorEventLoop
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "asyncio"]:
        for name in ("SelectorEventLoop", "EventLoop", "_UnixSelectorEventLoop"):
            if vars(module).get(name) is stock:
                setattr(module, name, rondel.EventLoop)


put_in_place()


class Journal:
    """Write a line of JSON for each phase of a test that determines its outcome."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._write(report.nodeid, report)

    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome != "passed":
            self._write(report.nodeid, report)

    def _write(self, test: str, report: Any) -> None:
        line = {"test": test, "outcome": report.outcome}
        if report.outcome == "failed":
            line["why"] = report.longreprtext[-3000:]
        print(json.dumps(line), file=self._file, flush=True)


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get("RONDEL_UPSTREAM_JOURNAL")
    # A worker of pytest-xdist reports to its parent process.
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Journal(open(path, "a", encoding="utf-8")))  # noqa: SIM115  # open to the end


def pytest_collection_finish() -> None:
    """aiohttp collects garbage after each test, mostly traversing the thousands of test objects."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    loop = asyncio.new_event_loop()
    loop.close()
    return f"event loop: {type(loop).__module__}.{type(loop).__qualname__}"
