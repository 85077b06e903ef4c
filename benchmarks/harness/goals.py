"""The figures to reach, each as a ratio within one run or as an absolute limit, and whether they are reached."""

from dataclasses import dataclass
from typing import Any

from .cases import CASES
from .results import Results, key


@dataclass(frozen=True)
class Limit:
    """At most `value`: times the figure of `baseline`, or without one the figure itself (bytes).

    With `beyond`, what the figure (µs) may be more than the one of that contender.
    """

    value: float
    baseline: str | None
    beyond: str | None = None


@dataclass(frozen=True)
class Goal:
    """What `loop` has to reach in `case`."""

    title: str
    case: str
    loop: str
    limits: tuple[Limit, ...]


GOALS = [
    Goal(
        "streams echo, 100 x 1 KiB",
        "streams-echo/100x1KiB",
        "rondel",
        (Limit(1.20, "floor"), Limit(0.62, "uvloop")),
    ),
    Goal("protocol echo, 100 x 1 KiB", "protocol-echo/100x1KiB", "rondel", (Limit(1.15, "floor"),)),
    Goal(
        "two write() in one callback, 100 x 1 KiB",
        "two-writes/100x1KiB",
        "rondel",
        (Limit(0.5, "uvloop"),),
    ),
    Goal("UDP echo, 100 x 1 KiB", "udp-echo/100x1KiB", "rondel", (Limit(0.95, "rloop"),)),
    Goal("accept, read, write, close", "one-shot-echo/100x64B", "rondel", (Limit(0.7, "uvloop"),)),
    Goal("getaddrinfo of a literal", "getaddrinfo-literal", "rondel", (Limit(1.0, "uvloop"),)),
    Goal("64 KiB writes over TCP", "bulk-tcp", "rondel", (Limit(1.0, "uvloop"),)),
    Goal("64 KiB writes over Unix sockets", "bulk-unix", "rondel", (Limit(1.0, "uvloop"),)),
    Goal("sendfile, each 64 KiB", "sendfile", "rondel", (Limit(1.0, "asyncio"),)),
    *(
        Goal(f"TLS {server} echo, 100 x {size}", f"tls-{server}-echo/100x{size.replace(' ', '')}", "rondel", (limit,))
        for server, limit in (
            ("protocol", Limit(0.9, "aiofastnet-uvloop")),
            ("streams", Limit(0.8, "aiofastnet-uvloop")),
        )
        for size in ("1 KiB", "64 KiB")
    ),
    Goal("call_soon", "call-soon", "rondel", (Limit(0.20, "uvloop"),)),
    Goal("sleep(0) through asyncio's own sleep", "sleep-0", "rondel", (Limit(0.55, "uvloop"),)),
    Goal("import", "import", "rondel", (Limit(15_000, None, "asyncio"),)),
    Goal("create_task + await through asyncio's own", "create-task", "rondel", (Limit(0.25, "uvloop"),)),
    Goal("create_task + await", "create-task/own", "rondel", (Limit(0.17, "uvloop"),)),
    Goal("TaskGroup of 100, each", "taskgroup/own", "rondel", (Limit(0.27, "uvloop"),)),
    Goal("to_thread", "to-thread/own", "rondel", (Limit(0.60, "uvloop"),)),
    Goal("future ping-pong", "future-ping-pong", "rondel", (Limit(0.17, "uvloop"),)),
    Goal("sleep(0)", "sleep-0/own", "rondel", (Limit(0.20, "uvloop"),)),
    Goal("queue put + get", "queue/own", "rondel", (Limit(0.20, "uvloop"),)),
    Goal("lock, free", "lock-free/own", "rondel", (Limit(0.45, "uvloop"),)),
    Goal("lock, contended", "lock-contended/own", "rondel", (Limit(0.12, "uvloop"),)),
    Goal("event", "event/own", "rondel", (Limit(0.15, "uvloop"),)),
    Goal("gather, each of 100", "gather/own", "rondel", (Limit(0.10, "uvloop"),)),
    Goal("timer set + cancel", "timer-cancelled", "rondel", (Limit(0.30, "uvloop"),)),
    Goal("timers that fire", "timer-fired", "rondel", (Limit(0.20, "uvloop"),)),
    Goal("timeout", "timeout/own", "rondel", (Limit(0.12, "uvloop"),)),
    Goal("wait_for", "wait-for/own", "rondel", (Limit(0.15, "uvloop"),)),
    Goal("subprocess: exec + wait", "subprocess", "rondel", (Limit(0.9, "asyncio"), Limit(0.25, "uvloop"))),
    Goal("Rust face: spawn + join", "rust-spawn-join", "rondel-rust", (Limit(1.0, "tokio"),)),
    Goal("Rust face: yield", "rust-yield", "rondel-rust", (Limit(1.0, "tokio"),)),
    Goal("Rust face: echo", "rust-echo/100x1KiB", "rondel-rust", (Limit(1.05, "floor"),)),
    *(
        Goal(title, case, "rondel", (Limit(0.60, "uvloop"), Limit(0.95, "blazio")))
        for title, case in (
            ("uvicorn, httptools, plaintext", "uvicorn-httptools/plaintext"),
            ("uvicorn, httptools, 10 KiB of JSON", "uvicorn-httptools/json-10KiB"),
        )
    ),
    Goal("uvicorn, httptools, TLS", "uvicorn-httptools/tls", "rondel", (Limit(0.70, "uvloop"),)),
    Goal("aiohttp server", "aiohttp-server/plaintext", "rondel", (Limit(0.70, "uvloop"), Limit(0.95, "blazio"))),
    Goal("websockets echo", "websockets-echo/1KiB", "rondel", (Limit(0.75, "uvloop"),)),
    Goal("asyncpg, 10 connections", "asyncpg", "rondel", (Limit(0.75, "uvloop"),)),
    Goal("redis GET", "redis", "rondel", (Limit(0.90, "uvloop"),)),
    Goal("aiohttp client crawling nginx", "aiohttp-client", "rondel", (Limit(0.85, "uvloop"),)),
    Goal("10,000 idle stream connections", "idle-memory/10000", "rondel", (Limit(3072, None),)),
    Goal("100,000 tasks that wait on a future", "waiting-memory/future", "rondel", (Limit(1.0, "asyncio"),)),
    Goal("100,000 tasks that wait for a lock", "waiting-memory/lock", "rondel", (Limit(1.0, "asyncio"),)),
    Goal("100,000 tasks that sleep", "waiting-memory/sleep", "rondel", (Limit(1.0, "asyncio"),)),
]


@dataclass(frozen=True)
class Verdict:
    """One limit of one goal, and what was measured."""

    goal: Goal
    limit: Limit
    measured: float | None

    @property
    def outcome(self) -> str:
        """``reached``, ``missed`` or ``not measured``."""
        if self.measured is None:
            return "not measured"
        return "reached" if self.measured <= self.limit.value else "missed"

    @property
    def texts(self) -> tuple[str, str]:
        """Limit and measured figure, for people."""
        if self.limit.beyond is not None:
            measured = "—" if self.measured is None else f"{self.measured / 1000:+.1f} ms"
            return f"≤ {self.limit.value / 1000:g} ms more than {self.limit.beyond}", measured
        if self.limit.baseline is None:
            measured = "—" if self.measured is None else f"{self.measured / 1024:.2f} KiB"
            return f"≤ {self.limit.value / 1024:g} KiB", measured
        measured = "—" if self.measured is None else f"{self.measured:.3f} x"
        return f"≤ {self.limit.value:.2f} x {self.limit.baseline}", measured

    def as_json(self) -> dict[str, Any]:
        """The verdict as plain data."""
        return {
            "goal": self.goal.title,
            "case": self.goal.case,
            "loop": self.goal.loop,
            "limit": self.limit.value,
            "relative_to": self.limit.baseline,
            "beyond": self.limit.beyond,
            "measured": self.measured,
            "outcome": self.outcome,
        }


def judge(results: Results) -> list[Verdict]:
    """A verdict on every limit of every goal."""
    by_name = {case.name: case for case in CASES}
    verdicts = []
    for goal in GOALS:
        case = by_name[goal.case]
        for limit in goal.limits:
            if limit.beyond is not None:
                measured = results.difference(case, goal.loop, limit.beyond)
            elif limit.baseline is not None:
                measured = results.ratio(case, goal.loop, limit.baseline)
            elif goal.loop in results.rounds.get(case.name, {}):
                measured = results.best(case, goal.loop)[key(case)]
            else:
                measured = None
            verdicts.append(Verdict(goal, limit, measured))
    return verdicts
