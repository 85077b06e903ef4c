"""Which suites there are, and how each is run. The versions are those of `requirements.txt`."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """One project's tests."""

    #: Name of its distribution.
    package: str
    version: str
    #: Files or folders, from the top of the source distribution.
    tests: tuple[str, ...]
    #: Options for pytest. The project's own `addopts` are not in force: they bring coverage and parallel runs.
    options: tuple[str, ...]
    #: So many tests have to pass, lest a suite that was not found counts as passed.
    at_least: int
    #: Tests that hold only for asyncio's own loop class, and why.
    names_the_loop: dict[str, str] = field(default_factory=dict)


SUITES = {
    "aiohttp": Suite(
        "aiohttp",
        "3.14.5",
        ("tests",),
        (
            *(
                "-p",
                "pytest_mock",
                "-p",
                "pytest_timeout",
                "-p",
                "pytest_cov",
                "-p",
                "xdist",
                "-p",
                "pytest_codspeed.plugin",
            ),
            *("-m", "not dev_mode and not autobahn and not internal"),
            "--ignore-glob=*test_benchmarks_*",
        ),
        3000,
    ),
    # Its tests run on a loop of their own, whose time does not pass: in mode `full` with Rondel's queues, tasks and futures.
    "aiostream": Suite(
        "aiostream", "0.8.1", ("tests",), ("-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", "--timeout=60"), 110
    ),
    "anyio": Suite(
        "anyio",
        "4.16.0",
        ("tests",),
        (
            *("-p", "anyio", "-p", "pytest_mock", "-p", "pytest_timeout"),
            # A test's own limit is 20 s, on a machine of its own.
            *("-o", "timeout=60", "-m", "not network", "-k", "not trio and not uvloop"),
        ),
        1000,
    ),
    "uvicorn": Suite(
        "uvicorn",
        "0.54.0",
        ("tests",),
        (
            "-p",
            "anyio",
            "-p",
            "pytest_mock",
            "-p",
            "pytest_timeout",
            "-p",
            "pytest_codspeed.plugin",
            "--ignore=tests/benchmarks",
            "--timeout=60",
        ),
        900,
        {"tests/test_auto_detection.py::test_loop_auto": "the loop's class has to come from the module asyncio"},
    ),
}
