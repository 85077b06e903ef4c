"""What is measured. To add a case: a line here, and for one in process a function in `programs/in_process.py`."""

from dataclasses import dataclass

from .loops import BESIDE, LOOPS_OF_PROGRAMS, PYTHON_LOOPS, TLS_LOOPS

RUST = ("tokio", "rondel-rust")


@dataclass(frozen=True)
class InProcess:
    """A case without sockets: CPU time of a fixed number of operations."""

    #: Name of the case in `programs/in_process.py`, or the mode of the program in Rust.
    program: str
    #: ``loop`` or ``module``, see `programs/binding.py`.
    form: str = "loop"


@dataclass(frozen=True)
class Echo:
    """An echo server under load: CPU time of the server for each message, and latencies."""

    #: Kind of server in `programs/echo_server.py`.
    server: str
    connections: int
    #: Bytes of one message.
    size: int
    #: How often the server answers with a message.
    copies: int = 1
    #: Mode of the load generator.
    load: str = "echo"
    #: Whether server and load speak TLS.
    tls: bool = False


@dataclass(frozen=True)
class Idle:
    """An echo server whose connections are idle: memory of the server for each connection."""

    server: str
    connections: int
    #: Whether server and load speak TLS.
    tls: bool = False


@dataclass(frozen=True)
class Waiting:
    """Tasks that wait: memory of the process for each of them."""

    #: What they wait for, as `programs/waiting.py` has it.
    on: str
    tasks: int


@dataclass(frozen=True)
class Import:
    """Fresh interpreters that import the loop's module: CPU time of a start."""


@dataclass(frozen=True)
class Web:
    """A whole program that serves, under load: CPU time of it for each request, and latencies."""

    #: Kind of server in `programs/web_server.py`.
    server: str
    #: Mode of the load generator: ``http`` or ``websocket``.
    load: str
    connections: int
    #: Bytes of a reply's body, or of a websocket's message; 0 is a short text.
    size: int
    #: How often the server answers with a message.
    copies: int = 1
    #: Whether server and load speak TLS.
    tls: bool = False


@dataclass(frozen=True)
class Client:
    """A whole program that asks a server which is not measured: CPU time of the program for each answer."""

    #: Name of the case in `programs/clients.py`.
    program: str
    #: ``PostgreSQL``, ``Redis`` or ``Nginx``, see `external.py`.
    server: str


@dataclass(frozen=True)
class Case:
    """One row of panels: a workload and those who run it."""

    name: str
    group: str
    workload: InProcess | Echo | Idle | Waiting | Import | Web | Client
    loops: tuple[str, ...]
    #: The contender that ratios refer to.
    baseline: str = "uvloop"
    #: Modules without which the case is skipped.
    modules: tuple[str, ...] = ()

    @property
    def in_memory(self) -> bool:
        """Whether the figure that counts is memory and not CPU time."""
        return isinstance(self.workload, Idle | Waiting)

    @property
    def form(self) -> str:
        """``loop`` or ``module``: what stands in asyncio's place."""
        if isinstance(self.workload, Web | Client):
            return "loop"
        return self.workload.form if isinstance(self.workload, InProcess) else "module"


def _size(size: int) -> str:
    return f"{size // 1024}KiB" if size >= 1024 else f"{size}B"


#: Cases in process, and whether asyncio's module has the function that is measured. If so, it is
#: measured twice: through asyncio's own function on each loop, and through that of the loop's own
#: module where it has one.
IN_PROCESS = {
    "call-soon": False,
    "timer-cancelled": False,
    "timer-fired": False,
    "timeout": True,
    "wait-for": True,
    "wait-for-turn": True,
    "future-ping-pong": False,
    "sleep-0": True,
    "sleep-0-alone": False,
    "create-task": True,
    "create-task-alone": False,
    "gather": True,
    "taskgroup": True,
    "taskgroup-of-3": True,
    "to-thread": True,
    "to-thread-10": True,
    "wait": True,
    "as-completed": True,
    "shield": True,
    "queue": True,
    "lock-free": True,
    "lock-contended": True,
    "event": True,
    "event-alone": True,
    "add-reader": False,
    "add-reader-number": False,
    "getaddrinfo-literal": False,
    "bulk-tcp": False,
    "bulk-unix": False,
    "subprocess": True,
    "subprocess-output": True,
}


def _in_process() -> list[Case]:
    cases = []
    for name, in_module in IN_PROCESS.items():
        cases.append(Case(name, "in process", InProcess(name), PYTHON_LOOPS))
        if in_module:
            own = InProcess(name, "module")
            cases.append(Case(f"{name}/own", "in process", own, PYTHON_LOOPS))
    return cases


def _beside() -> list[Case]:
    # What importing Rondel costs a program that goes on with asyncio's own loop and objects.
    return [
        Case(f"{name}/beside", "stock asyncio beside Rondel", InProcess(name), ("asyncio", BESIDE), "asyncio")
        for name in ("stock-methods", "stock-functions", "future-ping-pong", "create-task", "gather")
    ]


def _files() -> list[Case]:
    # uvloop and rloop have no `sendfile`.
    return [Case("sendfile", "in process", InProcess("sendfile"), ("asyncio", "rondel"), "asyncio")]


def _echo() -> list[Case]:
    cases = []
    for server in ("streams", "protocol"):
        for connections in (1, 100, 1000):
            for size in (64, 1024, 16 * 1024):
                name = f"{server}-echo/{connections}x{_size(size)}"
                workload = Echo(server, connections, size)
                cases.append(Case(name, f"{server} echo", workload, (*PYTHON_LOOPS, "floor")))
    two = Echo("two-writes", 100, 1024, copies=2)
    cases.append(Case("two-writes/100x1KiB", "protocol echo", two, PYTHON_LOOPS))
    # On Rondel's loop these functions give Rondel's own transports: the figure is to be that of
    # `protocol-echo`.
    by_functions = Echo("aiofastnet", 100, 1024)
    cases.append(Case("aiofastnet-echo/100x1KiB", "protocol echo", by_functions, PYTHON_LOOPS, modules=("aiofastnet",)))
    for connections in (1, 100):
        datagrams = Echo("datagrams", connections, 1024, load="datagrams")
        cases.append(Case(f"udp-echo/{connections}x1KiB", "UDP echo", datagrams, PYTHON_LOOPS, "rloop"))
    one_shot = Echo("one-shot", 100, 64, load="one-shot")
    cases.append(Case("one-shot-echo/100x64B", "one-shot echo", one_shot, PYTHON_LOOPS))
    for server in ("protocol", "streams"):
        for size in (1024, 64 * 1024):
            workload = Echo(server, 100, size, tls=True)
            name = f"tls-{server}-echo/100x{_size(size)}"
            cases.append(Case(name, "TLS echo", workload, (*PYTHON_LOOPS, *TLS_LOOPS)))
    return cases


def _rust() -> list[Case]:
    group = "Rust face"
    echo = [
        Case(
            f"rust-echo/{connections}x{_size(size)}",
            group,
            Echo("echo", connections, size),
            (*RUST, "floor"),
            "tokio",
        )
        for connections, size in ((1, 64), (100, 1024), (1000, 1024), (100, 16 * 1024))
    ]
    modes = ("spawn-join", "yield", "timers-cancelled", "timers-fired")
    return [*echo, *(Case(f"rust-{mode}", group, InProcess(mode), RUST, "tokio") for mode in modes)]


def _idle() -> list[Case]:
    plain = Case("idle-memory/10000", "idle memory", Idle("streams", 10_000), PYTHON_LOOPS)
    loops = (*PYTHON_LOOPS, *TLS_LOOPS)
    return [
        plain,
        *(
            Case(f"tls-{server}-idle-memory/2000", "idle memory", Idle(server, 2_000, tls=True), loops)
            for server in ("protocol", "streams")
        ),
    ]


def _waiting() -> list[Case]:
    return [
        Case(f"waiting-memory/{on}", "memory of waiting tasks", Waiting(on, 100_000), PYTHON_LOOPS)
        for on in ("future", "lock", "sleep")
    ]


def _import() -> list[Case]:
    return [Case("import", "start", Import(), PYTHON_LOOPS, "asyncio")]


def _programs() -> list[Case]:
    group = "whole programs"
    served = []
    for parser in ("h11", "httptools"):
        for name, size in (("plaintext", 0), ("json-10KiB", 10 * 1024)):
            web = Web(f"uvicorn-{parser}", "http", 50, size)
            served.append(Case(f"uvicorn-{parser}/{name}", group, web, LOOPS_OF_PROGRAMS, modules=("uvicorn", parser)))
    encrypted = Web("uvicorn-httptools", "http", 50, 0, tls=True)
    loops = (*LOOPS_OF_PROGRAMS, *TLS_LOOPS)
    modules = ("uvicorn", "httptools", "trustme")
    served.append(Case("uvicorn-httptools/tls", group, encrypted, loops, modules=modules))
    for name, size in (("plaintext", 0), ("json-10KiB", 10 * 1024)):
        web = Web("aiohttp", "http", 50, size)
        served.append(Case(f"aiohttp-server/{name}", group, web, LOOPS_OF_PROGRAMS, modules=("aiohttp",)))
    web = Web("websockets", "websocket", 50, 1024)
    served.append(Case("websockets-echo/1KiB", group, web, LOOPS_OF_PROGRAMS, modules=("websockets",)))
    asking = [
        Case(program, group, Client(program, server), LOOPS_OF_PROGRAMS, modules=(module,))
        for program, server, module in (
            ("aiohttp-client", "Nginx", "aiohttp"),
            ("asyncpg", "PostgreSQL", "asyncpg"),
            ("redis", "Redis", "redis"),
            ("redis-pipeline", "Redis", "redis"),
        )
    ]
    return [*served, *asking]


CASES: list[Case] = [
    *_in_process(),
    *_import(),
    *_beside(),
    *_files(),
    *_echo(),
    *_idle(),
    *_waiting(),
    *_programs(),
    *_rust(),
]
