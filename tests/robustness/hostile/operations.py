"""Random operations on asyncio's objects, with valid and invalid arguments.

python operations.py WAY SEED RUNS STEPS [PROFILE]

WAY is asyncio, rondel or factory. Each run has its own seed (SEED, SEED + 1, …) and prints one
line: the seed and a digest of its log. With RUNS 1 the program prints the log itself. The log has
the result of each operation: the name of a class, or of an exception. The faults to find are an end
by a signal, a panic and an internal error. In the profile `memory`, a log that differs from stock
asyncio's is a fault, too. In the profile `bytes` it is not: the kernel decides what arrives when.
"""

import asyncio
import contextlib
import contextvars
import functools
import gc
import hashlib
import io
import logging
import os
import random
import socket
import sys
import traceback
import types
import warnings


def words(text):
    return text.split()


#: The methods to call, by kind of object. One that the running version lacks gives an
#: AttributeError.
METHODS = {
    "Future": words("""result exception set_result set_exception cancel cancelled done add_done_callback remove_done_callback
        get_loop __await__ __iter__ __repr__ __del__ __init__ _make_cancelled_error __class_getitem__ _state _callbacks
        _exception _result _loop _log_traceback _source_traceback _cancel_message _asyncio_future_blocking"""),
    "Task": words("""result exception set_result set_exception cancel uncancel cancelling cancelled done add_done_callback
        remove_done_callback get_loop get_coro get_name set_name get_context get_stack print_stack __await__ __repr__ __del__
        _make_cancelled_error _state _callbacks _coro _must_cancel _fut_waiter _log_destroy_pending"""),
    "Handle": words("cancel cancelled when get_context __repr__ __eq__ __lt__ _run _callback _args _cancelled"),
    "Lock": words("acquire release locked __aenter__ __aexit__ __repr__"),
    "Event": words("wait set clear is_set __repr__"),
    "Condition": words("acquire release locked wait wait_for notify notify_all __aenter__ __aexit__ __repr__"),
    "Semaphore": words("acquire release locked __aenter__ __aexit__ __repr__"),
    "Queue": words("""put get put_nowait get_nowait qsize empty full task_done join shutdown maxsize __repr__
        __class_getitem__"""),
    "Barrier": words("wait reset abort broken parties n_waiting __aenter__ __aexit__ __repr__"),
    "TaskGroup": words("create_task __aenter__ __aexit__ __repr__"),
    "Timeout": words("when reschedule expired __aenter__ __aexit__ __repr__"),
    "StreamReader": words("""feed_data feed_eof at_eof read readline readexactly readuntil exception set_exception
        set_transport __aiter__ __anext__ __repr__"""),
    "Coroutine": words("send throw close __await__ __repr__"),
    "Transport": words("""write writelines write_eof can_write_eof close abort is_closing is_reading pause_reading
        resume_reading get_extra_info get_write_buffer_size get_write_buffer_limits set_write_buffer_limits get_protocol
        set_protocol sendto __repr__"""),
    "StreamWriter": words("""write writelines write_eof can_write_eof close is_closing wait_closed drain get_extra_info
        transport __repr__"""),
    "Loop": words("""call_soon call_later call_at call_soon_threadsafe create_future create_task time get_debug
        set_exception_handler get_exception_handler default_exception_handler call_exception_handler set_task_factory
        get_task_factory is_running is_closed __repr__"""),
    "Module": words("""sleep wait wait_for gather shield as_completed ensure_future create_task current_task all_tasks timeout
        timeout_at iscoroutine isfuture iscoroutinefunction wrap_future run_coroutine_threadsafe to_thread eager_task_factory
        Future Task Lock Event Condition Semaphore BoundedSemaphore Queue PriorityQueue LifoQueue Barrier TaskGroup
        StreamReader Timeout"""),
}
#: Keyword arguments of some methods.
KEYWORDS = (
    "loop",
    "context",
    "msg",
    "name",
    "timeout",
    "return_exceptions",
    "return_when",
    "limit",
    "maxsize",
    "value",
)
#: Calls that only another thread could end, or that would end the process.
NOT_CALLED = {("Module", "run_coroutine_threadsafe"), ("Module", "to_thread")}


class Unfit:
    """An argument that raises for each operation on it."""

    def __call__(self, *_):
        raise LookupError("called")

    def __bool__(self):
        raise LookupError("asked for its truth")

    def __eq__(self, other):
        raise LookupError("compared")

    def __lt__(self, other):
        raise LookupError("ordered")

    __hash__ = object.__hash__

    def __float__(self):
        raise LookupError("asked for a number")

    def __index__(self):
        raise LookupError("asked for an index")


class Peer(asyncio.Protocol, asyncio.DatagramProtocol):
    """A protocol that sometimes misbehaves."""

    def __init__(self, world):
        self.world = world
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.world.foolish(self.transport)

    def datagram_received(self, data, address):
        self.world.foolish(self.transport)

    def eof_received(self):
        return self.world.choose((None, True))

    def connection_lost(self, error):
        self.world.foolish(self.transport)

    def pause_writing(self):
        self.world.foolish(self.transport)


class World:
    """The objects of one run, and its log."""

    def __init__(self, aio, new_event_loop, seed, profile):
        self.aio, self.profile = aio, profile
        self.random = random.Random(seed)
        self.choose = self.random.choice
        self.log = []
        self.loop = new_event_loop()
        self.loop.slow_callback_duration = 1e9
        self.loop.set_exception_handler(self.reported)
        self.loop.set_debug(self.random.random() < 0.2)
        self.objects = {kind: [] for kind in METHODS}
        self.objects["Module"] = [aio]
        self.objects["Loop"] = [self.loop]
        self.sockets = []

    # ---- the log ----

    def reported(self, loop, context):
        self.log.append(f"reported {type(context.get('exception')).__name__}")

    @staticmethod
    def name(value):
        """Describe a value, except what differs between runs or between native and Python."""
        if value is None or isinstance(value, (bool, int, bytes)):
            return repr(value)[:40]
        if isinstance(value, (asyncio.Task, asyncio.Future)):
            state = "pending" if not value.done() else "cancelled" if value.cancelled() else "done"
            return f"{'Task' if isinstance(value, asyncio.Task) else 'Future'} {state}"
        if isinstance(value, asyncio.AbstractEventLoop):
            return "loop"
        if hasattr(value, "send"):
            return "coroutine"
        if callable(value) and not isinstance(value, type):
            return "callable"
        kind = type(value).__name__
        return "coroutine" if "iter" in kind.lower() else kind

    # ---- random choices ----

    def keep(self, value):
        """Keep a result as an object for later operations."""
        kinds = (
            ("Task", asyncio.Task),
            ("Future", asyncio.Future),
            ("Handle", asyncio.Handle),
            ("Lock", self.aio.Lock),
            ("Event", self.aio.Event),
            ("Condition", self.aio.Condition),
            ("Semaphore", self.aio.Semaphore),
            ("Queue", self.aio.Queue),
            ("Barrier", self.aio.Barrier),
            ("TaskGroup", self.aio.TaskGroup),
            ("Timeout", self.aio.Timeout),
            ("StreamReader", self.aio.StreamReader),
            ("Transport", asyncio.BaseTransport),
        )
        if hasattr(value, "send"):
            # The iterators of futures differ in other attributes. Only what a task uses is kept.
            pool = self.objects["Coroutine"] if hasattr(value, "cr_frame") or hasattr(value, "__await__") else []
        else:
            pool = next((self.objects[kind] for kind, classes in kinds if isinstance(value, classes)), None)
            if pool is None:
                return
        pool.append(value)
        if len(pool) > 24:
            del pool[self.random.randrange(len(pool))]

    def anything(self):
        """Choose an argument."""
        draw = self.random.randrange(10)
        if draw < 3:
            pool = self.objects[self.choose(tuple(self.objects))]
            if pool:
                return self.choose(pool)
        if draw < 5:
            return self.choose((self.callback, print_nothing, self.again, functools.partial(self.callback, 1)))
        if draw < 6:
            return self.coroutine()
        return self.choose(
            (
                *(None, True, 0, 1, -1, 2, 3, 10**30, -(10**30), 0.0, 1e-9, -1.5, float("nan"), float("inf")),
                *(
                    "",
                    "text",
                    b"",
                    b"\n",
                    b"bytes\n",
                    bytearray(b"array"),
                    memoryview(b"view"),
                    (),
                    (1, 2),
                    [],
                    {},
                    {1: 2},
                ),
                *(object, Unfit(), types, ValueError("v"), ValueError, StopIteration(1), KeyError),
                *(asyncio.CancelledError(), contextvars.copy_context(), contextvars.Context()),
                *("FIRST_COMPLETED", "ALL_COMPLETED", "FIRST_EXCEPTION", "socket", "peername"),
            )
        )

    def callback(self, *arguments):
        self.log.append(f"called with {len(arguments)}")
        return self.choose((True, False))

    def again(self, *arguments):
        """Perform an operation inside another one."""
        self.log.append("again")
        if len(self.log) < 4000:
            self.step()

    async def body(self):
        for _ in range(self.random.randrange(4)):
            await self.aio.sleep(0)
            self.step()
            waited = self.choose(self.objects["Future"] + self.objects["Task"] + self.objects["Coroutine"] + [None])
            if waited is not None:
                try:
                    await waited
                except (Exception, asyncio.CancelledError) as error:
                    self.log.append(f"awaited {type(error).__name__}")
                    if self.random.random() < 0.3:
                        raise
        return self.random.randrange(5)

    def coroutine(self):
        if self.random.random() < 0.6:
            return self.body()
        return self.aio.sleep(0, self.random.randrange(5))

    # ---- operations ----

    def step(self):
        kind = self.choose(tuple(kind for kind, pool in self.objects.items() if pool))
        target = self.choose(self.objects[kind])
        method = self.choose(METHODS[kind])
        if (kind, method) in NOT_CALLED:
            return
        arguments = [self.anything() for _ in range(self.choose((0, 0, 1, 1, 1, 2, 3)))]
        if method in ("call_later", "call_at"):
            # Stock asyncio accepts a value that is no number, and fails later, in the loop.
            arguments[:1] = [self.choose((0, -1, 0.0, 1e9, 1e-6, True, None))]
        keywords = {self.choose(KEYWORDS): self.anything()} if self.random.random() < 0.1 else {}
        what = f"{kind}.{method}/{len(arguments)}{''.join(keywords)}"
        try:
            value = getattr(target, method)
            if callable(value) and not (method.startswith("_") and not method.startswith("__") and method != "_run"):
                value = value(*arguments, **keywords)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, SystemError):
                raise
            self.log.append(f"{what}: {type(error).__name__}")
        else:
            self.log.append(f"{what}: {self.name(value)}")
            self.keep(value)
            if asyncio.iscoroutine(value) and self.random.random() < 0.5:
                self.attempt("task", self.loop.create_task, value)
        del arguments, keywords

    def attempt(self, what, function, *arguments):
        try:
            value = function(*arguments)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, SystemError):
                raise
            self.log.append(f"{what}: {type(error).__name__}")
        else:
            self.keep(value)

    def foolish(self, transport):
        if self.random.random() < 0.2 and len(self.log) < 4000:
            self.step()
        if self.random.random() < 0.02:
            raise ValueError("a protocol's")

    async def connect(self):
        """Create transports of each kind, on sockets and pipes of this process."""
        kind = self.random.randrange(4)
        make = functools.partial(Peer, self)
        if kind == 3:
            read, write = os.pipe()
            with open(read, "rb", 0, closefd=False), open(write, "wb", 0, closefd=False):
                pass
            reading, _ = await self.loop.connect_read_pipe(make, os.fdopen(read, "rb", 0))
            writing, _ = await self.loop.connect_write_pipe(make, os.fdopen(write, "wb", 0))
            made = [reading, writing]
        elif kind == 2:
            one, _ = await self.loop.create_datagram_endpoint(make, ("127.0.0.1", 0))
            other, _ = await self.loop.create_datagram_endpoint(make, remote_addr=one.get_extra_info("sockname"))
            made = [one, other]
        else:
            pair = socket.socketpair()
            for end in pair:
                end.setblocking(False)
            if kind == 1:
                one, _ = await self.loop.create_connection(make, sock=pair[0])
                other, _ = await self.loop.create_connection(make, sock=pair[1])
                made = [one, other]
            else:
                reader, writer = await self.aio.open_connection(sock=pair[0])
                other, _ = await self.loop.create_connection(make, sock=pair[1])
                self.objects["StreamReader"].append(reader)
                self.objects["StreamWriter"].append(writer)
                made = [writer.transport, other]
        for transport in made:
            self.keep(transport)
            self.sockets.append(transport)

    # ---- a run ----

    def turn(self):
        self.loop.call_soon(self.loop.stop)
        try:
            self.loop.run_forever()
        except SystemError:
            raise
        except Exception as error:
            self.log.append(f"the loop failed: {type(error).__name__}")

    def run(self, steps):
        with contextlib.suppress(AttributeError):
            asyncio.events._set_running_loop(None)
        for number in range(steps):
            if self.profile == "bytes" and number % 25 == 0:
                self.loop.set_task_factory(None)
                # Earlier operations may have damaged the loop, so that it cannot connect.
                with contextlib.suppress(Exception):
                    self.loop.run_until_complete(asyncio.wait_for(self.connect(), 5))
            # Like in a callback: most of these functions need a running loop.
            for _ in range(self.choose((1, 1, 2, 5))):
                self.loop.call_soon(self.guarded)
            self.turn()
            if self.random.random() < 0.03:
                gc.collect()
        self.end()
        return self.log

    def guarded(self):
        self.step()

    def end(self):
        """Drop all objects, in random order."""
        for _ in range(3):
            self.turn()
        for transport in self.sockets:
            getattr(transport, "abort", transport.close)()
        for _ in range(30):
            pending = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
            if not pending:
                break
            for task in pending:
                self.attempt("end", task.cancel)
            self.turn()
        kinds = list(self.objects)
        self.random.shuffle(kinds)
        for kind in kinds:
            self.objects[kind].clear()
        self.loop.close()


def print_nothing(*_):
    """A callback without log entries."""


def ways():
    """The module and the function that creates loops, by WAY."""

    def rondel_module():
        import rondel

        return rondel, rondel.new_event_loop

    return {
        "asyncio": lambda: (asyncio, asyncio.SelectorEventLoop),
        "rondel": rondel_module,
        "factory": lambda: (asyncio, rondel_module()[1]),
    }


def main(way, seed, runs, steps, profile="memory"):
    aio, new_event_loop = ways()[way]()
    logging.disable()
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None
    sys.setrecursionlimit(600)
    real, sys.stdout, sys.stderr = sys.stdout, io.StringIO(), io.StringIO()
    for number in range(int(seed), int(seed) + int(runs)):
        # A collection at another time than on stock asyncio would run destructors at another time.
        gc.disable()
        try:
            log = World(aio, new_event_loop, number, profile).run(int(steps))
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            print("in run", number, file=sys.__stderr__)
            raise
        gc.collect()
        if int(runs) == 1:
            print("\n".join(log), file=real)
        print(number, hashlib.sha256("\n".join(log).encode()).hexdigest()[:16], len(log), file=real, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
