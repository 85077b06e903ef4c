"""Runs a program of `programs.py`, and records everything observable."""

import asyncio
import contextvars
import gc
import re
import sys
import types
import warnings
from collections import deque

from programs import FAR

#: The maximum number of times that everything is cancelled at the end of a program.
ROUNDS = 40
NEVER_RETRIEVED = re.compile("never retrieved|was destroyed")

var = contextvars.ContextVar("var", default="-")


@types.coroutine
def bare_yield():
    yield


class OrderedSet(set):
    """A task group's set of tasks, iterated in the order of `created`.

    A plain set's order depends on addresses.
    """

    def __init__(self):
        super().__init__()
        self.created = []

    def __iter__(self):
        known = [task for task in self.created if task in self]
        return iter(known + [task for task in super().__iter__() if task not in known])


def plain(text):
    """Return a text without the parts that differ between two runs of a program."""
    text = re.sub(r"0x[0-9a-f]+", "0x…", str(text))
    return re.sub(r"<.*>", "<…>", text, flags=re.DOTALL)


def describe(error, depth=3):
    if error is None or depth == 0:
        return None
    parts = [describe(each, depth) for each in getattr(error, "exceptions", ())]
    chain = describe(error.__cause__, depth - 1), describe(error.__context__, depth - 1), error.__suppress_context__
    return (type(error).__name__, plain(error), *parts, *(chain if any(chain) else ()))


class Body:
    """The context of a statement: its task's label and number, and the timeout around it."""

    def __init__(self, label, number, timeout=None):
        self.label, self.number, self.timeout = label, number, timeout


class Interpreter:
    def __init__(self, aio, clock, program):
        self.aio, self.clock, self.program = aio, clock, program
        self.trace = []
        self.at_random_times = []
        self.tasks, self.begun, self.handles = [], {}, []
        self.labels = 0

    # ---- running a program ----

    def run(self):
        """Run the program and return its trace."""
        loop = self.clock.make_loop()
        self.loop = loop
        loop.set_debug(self.program.debug)
        loop.slow_callback_duration = FAR * FAR
        loop.set_exception_handler(self.handle)
        if self.program.eager:
            loop.set_task_factory(self.aio.eager_task_factory)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            main = loop.create_task(self.main())
            while not main.done():
                try:
                    loop.run_until_complete(main)
                except (SystemExit, KeyboardInterrupt) as error:
                    self.note("loop", "ended by", describe(error))
            error = main.exception()
            loop.close()
            trace = self.trace
            self.forget()
            del main
            gc.collect()
        if error is not None:
            raise error
        trace.append(sorted(map(repr, self.at_random_times)))
        trace.append(sorted(plain(each.message) for each in caught if "coroutine" not in plain(each.message)))
        return trace

    def forget(self):
        for name in ("tasks", "begun", "handles", "futures", "callbacks", "locks", "events", "condition", "semaphores"):
            delattr(self, name)
        for name in ("barrier", "queues", "loop"):
            delattr(self, name)
        self.clock.loop = None

    def handle(self, loop, context):
        what = plain(context["message"]), describe(context.get("exception")), sorted(context)
        if NEVER_RETRIEVED.search(context["message"]):
            self.at_random_times.append(what)
        else:
            self.note("handler", *what)

    def note(self, label, *what):
        self.trace.append((self.clock.stamp() if self.clock.loop else None, label, *what))

    async def main(self):
        aio = self.aio
        self.locks = [aio.Lock(), aio.Lock(), aio.Lock()]
        self.events = [aio.Event(), aio.Event(), aio.Event()]
        self.condition = aio.Condition(self.locks[2])
        self.semaphores = [aio.Semaphore(), aio.BoundedSemaphore(2), aio.Semaphore(0)]
        self.barrier = aio.Barrier(2)
        self.queues = [aio.Queue(1), aio.PriorityQueue(2), aio.LifoQueue()]
        self.futures = [self.loop.create_future() for _ in range(3)]
        self.callbacks = deque(maxlen=3)
        for body in self.program.tasks:
            try:
                self.spawn(body)
            except (SystemExit, KeyboardInterrupt) as error:
                self.note("main", "a task that starts eagerly raises", describe(error))
        await self.clock.exhaust(aio)
        self.look("exhausted")
        for _ in range(ROUNDS):
            left = [task for task in self.begun if not task.done()]
            left += [task for task in self.tasks if not task.done() and task not in self.begun]
            if not left:
                break
            for task in left:
                task.cancel("the end")
            for lock in self.locks:
                if lock.locked():
                    lock.release()  # a condition reacquires its lock, however often it is cancelled
            await self.clock.settle(aio)
        self.look("ended")
        assert all(task.done() for task in self.tasks)

    def look(self, when):
        """Record the states of all objects."""
        for number, task in enumerate(self.tasks):
            state = "pending"
            if task.cancelled():
                state = "cancelled"
            elif task.done():
                state = describe(task._exception) if task._exception else ("result", task.result())
            name = re.sub("^Task-.*", "Task-…", task.get_name())
            self.note(when, number, state, task.cancelling(), task._must_cancel, name)
        for primitive in (*self.locks, *self.events, self.condition, *self.semaphores, self.barrier):
            self.note(when, type(primitive).__name__, repr(primitive).partition("[")[2])
        for queue in self.queues:
            self.note(when, str(queue))
        for future in self.futures:
            self.note(when, future._state, future.cancelled() or (future.done() and describe(future._exception)))
        self.note(when, len(self.aio.all_tasks()))

    # ---- tasks ----

    def spawn(self, body):
        number = len(self.tasks)
        self.tasks.append(None)
        coroutine = self.body(f"t{number}", number, body)
        self.tasks[number] = self.aio.create_task(coroutine, name=f"t{number}")
        return self.tasks[number]

    def coroutine(self, body, where):
        """Return a coroutine: the function that gets it makes it a task, or awaits it."""
        self.labels += 1
        return self.body(f"{where.label}.{self.labels}", where.number, body)

    async def body(self, label, number, body):
        self.begun.setdefault(self.aio.current_task())
        if self.tasks[number] is None:
            self.tasks[number] = self.aio.current_task()  # it starts eagerly
        self.note(label, "begins", self.current(), var.get())
        where = Body(label, number)
        try:
            result = await self.run_body(where, body)
        except GeneratorExit:
            self.at_random_times.append(f"{label} closed")
            raise
        except BaseException as error:
            self.note(label, "fails", describe(error), self.cancelling())
            raise
        self.note(label, "ends", result, self.cancelling())
        return label if result is None else result

    def current(self):
        task = self.aio.current_task()
        if task is None:
            return None
        name = task.get_name()
        return "a task" if name.startswith("Task-") else name

    def cancelling(self):
        task = self.aio.current_task()
        return task.cancelling() if task is not None else None

    def any_task(self, number):
        return self.tasks[number % len(self.tasks)]

    def other_task(self, number, where):
        """Choose a task created after this one, so that tasks never wait in a cycle."""
        later = self.tasks[where.number + 1 :]
        return later[number % len(later)] if later else None

    def target(self, target, where):
        kind, which = target
        if kind == "body":
            return self.coroutine(which, where)
        if kind == "task":
            return self.other_task(which, where) or self.futures[0]
        return self.futures[which]

    # ---- bodies ----

    async def run_body(self, where, body):
        for statement in body:
            name, *args = statement
            if name == "act":
                self.act(where.label, args[0])
                continue
            if name == "return":
                return args[0]
            try:
                result = await getattr(self, f"do_{name}")(where, *args)
            except asyncio.CancelledError as error:
                self.note(where.label, name, "cancelled", describe(error), self.cancelling())
                raise
            except Exception as error:
                self.note(where.label, name, "raised", describe(error), self.cancelling())
                if name in ("raise", "group", "try"):
                    raise
            else:
                self.note(where.label, name, result, self.current(), self.cancelling())
        return None

    def act(self, label, statement):
        """Run a statement that does not wait."""
        name, *args = statement
        try:
            result = getattr(self, f"do_{name}")(label, *args)
        except Exception as error:
            self.note(label, name, "raised", describe(error))
        else:
            self.note(label, name, plain(result), self.current(), var.get())

    def callback(self, label, actions, fails):
        def callback(*args):
            self.note(label, "called", len(args), self.current(), var.get())
            for each in actions:
                self.act(label, each)
            if fails:
                raise ValueError(label)

        return callback

    # ---- actions ----

    def do_note(self, label):
        return len(self.aio.all_tasks()), self.cancelling()

    def do_cancel(self, label, number, message):
        task = self.any_task(number)
        return number % len(self.tasks), task.cancel(message) if message else task.cancel(), task.cancelling()

    def do_uncancel(self, label, number):
        task = self.any_task(number)
        return task.uncancel(), task._must_cancel

    def do_set_var(self, label, number):
        var.set(number)

    def do_future_result(self, label, which, value):
        self.futures[which].set_result(value)

    def do_future_exception(self, label, which, value):
        self.futures[which].set_exception(ValueError(value) if value else ValueError)

    def do_future_cancel(self, label, which, message):
        return self.futures[which].cancel(message)

    def do_future_callback(self, label, which, number):
        callback = self.callback(f"{label} future", [("set_var", number)], number == 4)
        self.callbacks.append(callback)
        self.futures[which].add_done_callback(callback)

    def do_future_drop_callback(self, label, which):
        return self.futures[which].remove_done_callback(self.callbacks[0]) if self.callbacks else None

    def do_future_look(self, label, which):
        future = self.futures[which]
        result = future.exception()
        return describe(result) or future.result()

    def do_task_callback(self, label, number, value):
        task = self.any_task(number)
        task.add_done_callback(self.callback(f"{label} task", [("cancel", value, "called")], False))

    def do_event_set(self, label, which):
        self.events[which].set()

    def do_event_clear(self, label, which):
        self.events[which].clear()

    def do_lock_release(self, label, which):
        self.locks[which].release()

    def do_semaphore_release(self, label, which):
        self.semaphores[which].release()

    def do_put_nowait(self, label, which, item):
        self.queues[which].put_nowait(item)

    def do_get_nowait(self, label, which):
        return self.queues[which].get_nowait()

    def do_task_done(self, label, which):
        self.queues[which].task_done()

    def do_shutdown(self, label, which, immediate):
        self.queues[which].shutdown(immediate)

    def do_handle_cancel(self, label, number):
        if self.handles:
            handle = self.handles[number % len(self.handles)]
            handle.cancel()
            return handle.cancelled()

    # ---- statements ----

    async def do_turns(self, where, count):
        for turn in range(count):
            assert await self.aio.sleep(0, turn) == turn

    async def do_yield(self, where):
        await bare_yield()

    async def do_sleep(self, where, timer):
        return await self.aio.sleep(self.clock.delay(timer), where.label)

    async def do_call_soon(self, where, actions, fails):
        callback = self.callback(f"{where.label} soon", actions, fails)
        call = self.loop.call_soon_threadsafe if len(actions) == 1 else self.loop.call_soon
        self.handles.append(call(callback, 1, 2))

    async def do_call_later(self, where, timer, actions, fails):
        callback = self.callback(f"{where.label} later", actions, fails)
        delay = self.clock.delay(timer)
        if not delay:
            return
        if len(actions) == 1:
            handle = self.loop.call_at(self.loop.time() + delay, callback, 1)
        else:
            handle = self.loop.call_later(delay, callback)
        self.handles.append(handle)

    async def do_await_task(self, where, number):
        task = self.other_task(number, where)
        return await task if task is not None else None

    async def do_await_future(self, where, which):
        return await self.futures[which]

    async def do_acquire(self, where, which):
        return await self.locks[which].acquire()

    async def do_acquire_permit(self, where, which):
        return await self.semaphores[which].acquire()

    async def do_event_wait(self, where, which):
        return await self.events[which].wait()

    async def do_condition_notify(self, where, count):
        async with self.condition:
            self.condition.notify(count)

    async def do_barrier_wait(self, where):
        return await self.barrier.wait()

    async def do_barrier_reset(self, where):
        await self.barrier.reset()

    async def do_barrier_abort(self, where):
        await self.barrier.abort()

    async def do_put(self, where, which, item):
        await self.queues[which].put(item)

    async def do_get(self, where, which):
        return await self.queues[which].get()

    async def do_join(self, where, which):
        await self.queues[which].join()

    async def do_raise(self, where, name):
        if name == "CancelledError":
            raise asyncio.CancelledError(where.label)
        if name == "StopIteration":
            raise StopIteration(where.label)
        if name == "ExceptionGroup":
            raise ExceptionGroup(where.label, [ValueError(1), KeyError(2)])
        raise {"ValueError": ValueError, "KeyError": KeyError}[name](where.label)

    async def do_exit(self, where, name):
        raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[name](where.label)

    async def do_reschedule(self, where, timer):
        if where.timeout is None:
            return None
        delay = self.clock.delay(timer)
        where.timeout.reschedule(None if delay is None else self.loop.time() + delay)
        return where.timeout.when() is None, where.timeout.expired()

    async def do_spawn(self, where, body):
        self.spawn(body)

    async def do_try(self, where, body, swallow, uncancel, cleanup):
        try:
            await self.run_body(where, body)
        except asyncio.CancelledError:
            if swallow != "cancellation":
                raise
            if uncancel:
                self.aio.current_task().uncancel()
        except Exception:
            if swallow != "errors":
                raise
        finally:
            await self.run_body(where, cleanup)

    async def do_with_lock(self, where, which, body):
        async with self.locks[which]:
            self.note(where.label, "has lock", which)
            await self.run_body(where, body)

    async def do_with_permit(self, where, which, body):
        async with self.semaphores[which]:
            self.note(where.label, "has permit", which)
            await self.run_body(where, body)

    async def do_with_condition(self, where, body):
        async with self.condition:
            self.note(where.label, "has condition")
            await self.run_body(where, body)

    async def do_with_barrier(self, where, body):
        async with self.barrier as position:
            self.note(where.label, "passed", position)
            await self.run_body(where, body)

    async def do_condition_wait(self, where, body):
        async with self.condition:
            try:
                return await self.condition.wait()
            finally:
                self.note(where.label, "woke up", self.condition.locked())
                await self.run_body(where, body)

    async def do_condition_wait_for(self, where, number):
        calls = 0

        def predicate():
            nonlocal calls
            calls += 1
            self.note(where.label, "asked", calls)
            return calls > number % 3 and calls

        async with self.condition:
            return await self.condition.wait_for(predicate)

    async def do_timeout(self, where, timer, body):
        await self.within(where, self.aio.timeout(self.clock.delay(timer)), body)

    async def do_timeout_at(self, where, timer, body):
        await self.within(where, self.aio.timeout_at(self.loop.time() + self.clock.delay(timer)), body)

    async def within(self, where, timeout, body):
        async with timeout as same:
            assert same is timeout
            await self.run_body(Body(where.label, where.number, timeout), body)
            self.note(where.label, "in time", timeout.expired())

    async def do_wait_for(self, where, target, timer):
        return await self.aio.wait_for(self.target(target, where), self.clock.delay(timer))

    async def do_shield(self, where, target):
        return await self.aio.shield(self.target(target, where))

    async def do_gather(self, where, targets, return_exceptions):
        targets = [self.target(each, where) for each in targets]
        results = await self.aio.gather(*targets, return_exceptions=return_exceptions)
        return [describe(each) if isinstance(each, BaseException) else each for each in results]

    async def do_wait(self, where, targets, timer, until):
        futures = []
        for target in targets:
            future = self.target(target, where)
            futures.append(self.spawn(target[1]) if target[0] == "body" else future)
            if target[0] == "body":
                future.close()
        try:
            done, pending = await self.aio.wait(futures, timeout=self.clock.delay(timer), return_when=until)
        finally:
            # asyncio iterates over a set here, and retrieves exceptions only until it has seen
            # enough.
            for each in futures:
                if each.done() and not each.cancelled():
                    each.exception()
        return [each in done for each in futures], [each in pending for each in futures]

    async def do_completed(self, where, targets, timer, async_form):
        # asyncio iterates over a set here: only one of the targets may be done, or new.
        futures, special = [], 0
        for target in targets:
            future = self.target(target, where)
            if not self.aio.isfuture(future) or future.done():
                special += 1
                if special > 1:
                    if not self.aio.isfuture(future):
                        future.close()
                    continue
            futures.append(future)
        completed = self.aio.as_completed(futures, timeout=self.clock.delay(timer))
        if async_form and sys.version_info >= (3, 13):
            async for each in completed:
                self.note(where.label, "completed", next((i for i, f in enumerate(futures) if f is each), None))
                await self.take(where, each)
        else:
            for each in completed:
                await self.take(where, each)

    async def take(self, where, awaitable):
        try:
            self.note(where.label, "gets", await awaitable)
        except ValueError as error:
            self.note(where.label, "gets", describe(error))

    async def do_group(self, where, bodies, body):
        group = self.aio.TaskGroup()
        group._tasks = tasks = OrderedSet()
        async with group:
            for each in bodies:
                tasks.created.append(group.create_task(self.coroutine(each, where)))
            await self.run_body(Body(where.label, where.number), body)
            self.note(where.label, "waits for its group")
