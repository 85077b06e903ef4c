"""Makes the table of `docs/rust.md` that says what the Rust face has for each name of asyncio.

`python docs/rust_vocabulary.py` writes it; `tests/package/test_rust_vocabulary.py` checks that it has all names of
`asyncio.__all__`, that it is what stands in the documentation, and that the Rust names are there.
"""

from pathlib import Path
from typing import NamedTuple

DOCUMENT = Path(__file__).parent / "rust.md"
BEGIN = "<!-- The table is made by docs/rust_vocabulary.py. -->\n"
END = "<!-- The end of the table. -->\n"


class Entry(NamedTuple):
    """What there is for a name: Rust names, or none and a reason; and what a tokio program has."""

    rondel: tuple[str, ...] = ()
    note: str = ""
    tokio: str = ""


def _is(*rondel, tokio="", note=""):
    return Entry(rondel, note, tokio)


def _none(note, tokio=""):
    return Entry((), note, tokio)


_POLICY = _none("a loop is made where it is run; there is no policy to ask for one")
_WATCHER = _none("a child process needs no watcher on Linux: a pidfd tells of its end")
_PROTOCOL = _none("callbacks with a transport; here a task reads from a `StreamReader`")
_TRANSPORT = _none("what is under a `StreamWriter`; not for programs")
_INTERNAL = _none("for implementations of tasks in Python")
_COROUTINE = _none("the compiler knows what is a future")

VOCABULARY = {
    "ALL_COMPLETED": _is("ReturnWhen::AllCompleted"),
    "AbstractChildWatcher": _WATCHER,
    "AbstractEventLoop": _none("there is one kind of loop"),
    "AbstractEventLoopPolicy": _POLICY,
    "AbstractServer": _is("Server", tokio="`net::TcpListener` and a loop"),
    "Barrier": _is("Barrier", tokio="`sync::Barrier`"),
    "BaseEventLoop": _none("there is one kind of loop"),
    "BaseProtocol": _PROTOCOL,
    "BaseTransport": _TRANSPORT,
    "BoundedSemaphore": _is("BoundedSemaphore"),
    "BrokenBarrierError": _is("BrokenBarrierError"),
    "BufferedProtocol": _PROTOCOL,
    "CancelledError": _is(
        "CancelledError", "JoinError", note="for who awaits; the task itself is dropped", tokio="`JoinError`"
    ),
    "Condition": _is("Condition", note="`wait` and `notify` are methods of its guard", tokio="`sync::Notify`"),
    "DatagramProtocol": _none("callbacks; here a task receives from a `DatagramEndpoint`"),
    "DatagramTransport": _is("DatagramEndpoint", tokio="`net::UdpSocket`"),
    "DefaultEventLoopPolicy": _POLICY,
    "Event": _is("Event", tokio="`sync::Notify`, `sync::watch`"),
    "EventLoop": _is("Runner", "Builder", tokio="`runtime::LocalRuntime`"),
    "FIRST_COMPLETED": _is("ReturnWhen::FirstCompleted"),
    "FIRST_EXCEPTION": _is("ReturnWhen::FirstException", "Wait::or_first_error"),
    "FastChildWatcher": _WATCHER,
    "Future": _is("Future", tokio="`sync::oneshot`"),
    "FutureCallGraph": _none("a future does not tell who awaits it"),
    "FrameCallGraphEntry": _none("a future does not tell who awaits it"),
    "Handle": _is("Handle", note="of `call_soon`"),
    "IncompleteReadError": _is("IncompleteReadError", tokio="`io::ErrorKind::UnexpectedEof`"),
    "InvalidStateError": _is("InvalidStateError"),
    "LifoQueue": _is("LifoQueue"),
    "LimitOverrunError": _is("LimitOverrunError"),
    "Lock": _is("Lock", note="with the value inside", tokio="`sync::Mutex`"),
    "MultiLoopChildWatcher": _WATCHER,
    "PidfdChildWatcher": _WATCHER,
    "PriorityQueue": _is("PriorityQueue"),
    "Protocol": _PROTOCOL,
    "Queue": _is("Queue", "mpsc", tokio="`sync::mpsc`"),
    "QueueEmpty": _is("GetNowaitError::Empty", tokio="`mpsc::error::TryRecvError`"),
    "QueueFull": _is("PutNowaitError::Full", tokio="`mpsc::error::TrySendError`"),
    "QueueShutDown": _is("QueueShutDown", "PutError", tokio="`mpsc::error::SendError`"),
    "ReadTransport": _TRANSPORT,
    "Runner": _is("Runner", tokio="`runtime::LocalRuntime`"),
    "SafeChildWatcher": _WATCHER,
    "SelectorEventLoop": _none("there is one kind of loop"),
    "Semaphore": _is("Semaphore", tokio="`sync::Semaphore`"),
    "SendfileNotAvailableError": _none("`StreamWriter::sendfile` reads and writes what the kernel can't send"),
    "Server": _is("Server", tokio="`net::TcpListener` and a loop"),
    "StreamReader": _is("StreamReader", tokio="`io::BufReader`, `AsyncReadExt`"),
    "StreamReaderProtocol": _PROTOCOL,
    "StreamWriter": _is("StreamWriter", tokio="`io::BufWriter`, `AsyncWriteExt`"),
    "SubprocessProtocol": _PROTOCOL,
    "SubprocessTransport": _TRANSPORT,
    "Task": _is("Task", "CancelHandle", tokio="`task::JoinHandle`, `task::AbortHandle`"),
    "TaskGroup": _is("TaskGroup", "task_group", "TaskScope", "task_scope", tokio="`task::JoinSet`"),
    "ThreadedChildWatcher": _WATCHER,
    "Timeout": _is("Timeout", "TimeoutHandle", "timeout_scope", tokio="`time::Timeout`"),
    "TimeoutError": _is("TimeoutError", tokio="`time::error::Elapsed`"),
    "TimerHandle": _is("TimerHandle", note="of `call_later` and `call_at`"),
    "Transport": _TRANSPORT,
    "WriteTransport": _TRANSPORT,
    "_DefaultEventLoopPolicy": _POLICY,
    "_enter_task": _INTERNAL,
    "_get_running_loop": _INTERNAL,
    "_leave_task": _INTERNAL,
    "_register_task": _INTERNAL,
    "_set_running_loop": _INTERNAL,
    "_unregister_task": _INTERNAL,
    "all_tasks": _is("all_tasks"),
    "as_completed": _is("as_completed", tokio="`task::JoinSet::join_next`"),
    "capture_call_graph": _none("a future does not tell who awaits it"),
    "create_eager_task_factory": _is("TaskBuilder::eager_start", note="for each task"),
    "create_subprocess_exec": _is("create_subprocess_exec", "Process", tokio="`process::Command`"),
    "create_subprocess_shell": _is("create_subprocess_shell", "shell", tokio="`process::Command`"),
    "create_task": _is("create_task", "build_task", tokio="`task::spawn_local`"),
    "current_task": _is("current_task", tokio="`task::id`"),
    "eager_task_factory": _is("TaskBuilder::eager_start", note="for each task"),
    "ensure_future": _none("`create_task` makes a task of any future"),
    "format_call_graph": _none("a future does not tell who awaits it"),
    "future_add_to_awaited_by": _none("a future does not tell who awaits it"),
    "future_discard_from_awaited_by": _none("a future does not tell who awaits it"),
    "gather": _is("gather", "try_gather", "gather_scoped", tokio="`join!`, `try_join!`"),
    "get_child_watcher": _WATCHER,
    "get_event_loop": _is("get_running_loop"),
    "get_event_loop_policy": _POLICY,
    "get_running_loop": _is("get_running_loop", "LoopHandle", tokio="`runtime::Handle::current`"),
    "iscoroutine": _COROUTINE,
    "iscoroutinefunction": _COROUTINE,
    "isfuture": _COROUTINE,
    "new_event_loop": _is("Runner::new", "Builder::build", tokio="`runtime::Builder`"),
    "open_connection": _is("open_connection", tokio="`net::TcpStream::connect`"),
    "open_unix_connection": _is("open_unix_connection", tokio="`net::UnixStream::connect`"),
    "print_call_graph": _none("a future does not tell who awaits it"),
    "run": _is("run", tokio="`#[tokio::main]`, `block_on`"),
    "run_coroutine_threadsafe": _is("LoopHandle::run_coroutine_threadsafe", tokio="`runtime::Handle::spawn`"),
    "set_child_watcher": _WATCHER,
    "set_event_loop": _POLICY,
    "set_event_loop_policy": _POLICY,
    "shield": _is("shield", note="tokio's tasks are never cancelled by who awaits them"),
    "sleep": _is("sleep", "yield_now", tokio="`time::sleep`, `task::yield_now`"),
    "start_server": _is("start_server", "listen", tokio="`net::TcpListener::bind`"),
    "start_unix_server": _is("start_unix_server", "listen_unix", tokio="`net::UnixListener::bind`"),
    "timeout": _is("timeout", tokio="`time::timeout`"),
    "timeout_at": _is("timeout_at", tokio="`time::timeout_at`"),
    "to_thread": _is("spawn_blocking", tokio="`task::spawn_blocking`"),
    "wait": _is("wait"),
    "wait_for": _is("timeout", tokio="`time::timeout`"),
    "wrap_future": _is("ConcurrentFuture", note="can be awaited as it is"),
}


def table() -> str:
    """The table, as it is to stand in the document."""
    rows = ["| asyncio | Rondel | tokio |", "|---|---|---|"]
    for name, entry in VOCABULARY.items():
        here = ", ".join(f"`{rust}`" for rust in entry.rondel)
        if entry.note:
            here = f"{here} ({entry.note})" if here else f"— {entry.note}"
        rows.append(f"| `{name}` | {here} | {entry.tokio} |")
    return "\n".join(rows) + "\n"


def with_table(document: str) -> str:
    """The document with the table as it is now."""
    head, rest = document.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
