"""The suites, and how each is run. The versions are those of `requirements.txt`."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """One project's tests."""

    #: The name of its distribution.
    package: str
    version: str
    #: Files or folders, relative to the source distribution.
    tests: tuple[str, ...]
    #: Options for pytest. The project's own `addopts` (coverage, parallel runs) are not used.
    options: tuple[str, ...]
    #: The minimum number of tests that must pass, so that a missing suite does not count as passed.
    at_least: int
    #: Tests that are valid only for asyncio's own loop class, with reasons.
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
    # Its tests run on their own loop, with a fake clock. In mode `full` they use Rondel's queues,
    # tasks and futures.
    "aiostream": Suite(
        "aiostream", "0.8.1", ("tests",), ("-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", "--timeout=60"), 110
    ),
    "anyio": Suite(
        "anyio",
        "4.16.0",
        ("tests",),
        (
            *("-p", "anyio", "-p", "pytest_mock", "-p", "pytest_timeout"),
            # The tests have a limit of 20 s, which is meant for an idle machine.
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
