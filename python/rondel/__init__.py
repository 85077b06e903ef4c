"""Python's asyncio, implemented in Rust.

`import rondel as asyncio` gives every name that the running version's `asyncio` has. A name that
Rondel implements is Rondel's; any other is asyncio's own object. The other ways to use Rondel are
`rondel.run(main())`, `asyncio.run(main(), loop_factory=rondel.new_event_loop)`, `rondel.install()`
and `python -m rondel app.py`.
"""

import asyncio as _asyncio
import sys as _sys
from asyncio import *  # noqa: F403

from . import _pickling as _pickling  # the native module needs it while it loads

try:
    from . import _rondel as _rondel
except ImportError as _error:
    from ._load_error import explain as _explain

    raise _explain(_error) from _error

from . import _functions as _functions  # changes _rondel: before anything is imported from it
from . import _policy as _policy
from ._rondel import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Future,
    Handle,
    LifoQueue,
    Lock,
    PriorityQueue,
    Queue,
    Semaphore,
    Task,
    TaskGroup,
    Timeout,
    TimerHandle,
    __version__,
    create_task,
    ensure_future,
    gather,
    shield,
    sleep,
    timeout,
    timeout_at,
    to_thread,
    wait,
    wait_for,
)

if _sys.version_info >= (3, 13):
    from ._rondel import as_completed
else:
    from ._as_completed import as_completed
from ._aiofastnet import use_native_transports as _use_native_transports
from ._event_loop import EventLoop, new_event_loop
from ._import_hooks import alias_asyncio_submodules as _alias_asyncio_submodules
from ._install import install, uninstall
from ._runners import Runner, run
from ._streams import (
    StreamReader,
    StreamReaderProtocol,
    StreamWriter,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)
from ._subprocess import create_subprocess_exec, create_subprocess_shell

if _sys.version_info >= (3, 12):
    from ._rondel import eager_task_factory

_alias_asyncio_submodules()
_use_native_transports()

__all__ = [*_asyncio.__all__]
for _name in ("EventLoop", "install", "uninstall"):
    if _name not in __all__:
        __all__.append(_name)
if hasattr(_policy, "EventLoopPolicy"):
    EventLoopPolicy = _policy.EventLoopPolicy
    __all__.append("EventLoopPolicy")
_functions.register_public_names(globals())
del _name


def _imports_of_native_code() -> None:
    """Never called. Packagers look for import statements: these are the imports of native code."""
    import asyncio.sslproto
    import asyncio.staggered
    import concurrent.futures.thread
    import heapq
    import queue

    from . import _awaiting, _executor, _patches


# Everything else that asyncio has: its submodules, and deprecated names.
TYPE_CHECKING = False  # type checkers assume True
if _sys.version_info >= (3, 14) or TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        return getattr(_asyncio, name)
else:
    # asyncio has no `__getattr__` in these versions, and attribute lookup is faster in a module
    # without one.
    for _name, _value in vars(_asyncio).items():
        if not _name.startswith("__"):
            globals().setdefault(_name, _value)
    del _name, _value
del TYPE_CHECKING
