"""`add_signal_handler`, other signal handlers, and Ctrl-C; in a child process where necessary."""

import asyncio
import ctypes  # here, because it opens a descriptor and keeps it
import os
import signal
import threading
import time

import pytest
from child_programs import child, finish, output

USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


def send_later(number, times=1, delay=0.001):
    """Send a signal to the main thread after a moment. (pytest-timeout needs SIGALRM.)"""
    main = threading.main_thread().ident

    def send():
        for _ in range(times):
            time.sleep(delay)
            signal.pthread_kill(main, number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.fixture(autouse=True)
def _handlers_are_as_before():
    watched = (signal.SIGINT, USR1, USR2)
    before = [signal.getsignal(number) for number in watched]
    yield
    wakeup = signal.set_wakeup_fd(-1)
    after = [signal.getsignal(number) for number in watched]
    for number, handler in zip(watched, before, strict=True):
        signal.signal(number, handler)
    assert after == before
    assert wakeup == -1


# ---- add_signal_handler ----


def test_a_handler_is_called_with_its_arguments(run, aio):
    async def main():
        loop = aio.get_running_loop()
        called = loop.create_future()
        loop.add_signal_handler(USR1, lambda *args: called.set_result(args), 1, "two")
        os.kill(os.getpid(), USR1)
        assert await called == (1, "two")
        assert loop.remove_signal_handler(USR1) is True
        assert loop.remove_signal_handler(USR1) is False
        assert signal.getsignal(USR1) == signal.SIG_DFL

    run(main())


def test_a_loop_that_sleeps_is_woken(run, aio):
    async def main():
        loop = aio.get_running_loop()
        called = loop.create_future()
        loop.add_signal_handler(USR1, called.set_result, "woken")
        thread = send_later(USR1)
        assert await called == "woken"
        thread.join()

    run(main())


def test_another_handler_takes_the_place_of_the_first(run, aio):
    async def main():
        loop = aio.get_running_loop()
        called = []
        done = loop.create_future()
        loop.add_signal_handler(USR1, called.append, "first")
        loop.add_signal_handler(USR1, called.append, "second")
        loop.add_signal_handler(USR2, done.set_result, None)
        os.kill(os.getpid(), USR1)
        os.kill(os.getpid(), USR2)
        await done
        assert called == ["second"]
        assert set(loop._signal_handlers) == {USR1, USR2}

    run(main())


def test_what_is_refused(loop, aio):
    async def coroutine_function():
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used with add_signal_handler"):
        loop.add_signal_handler(USR1, coroutine_function)
    coroutine = coroutine_function()
    with pytest.raises(TypeError, match="coroutines cannot be used with add_signal_handler"):
        loop.add_signal_handler(USR1, coroutine)
    coroutine.close()
    with pytest.raises(TypeError, match="sig must be an int, not 'USR1'"):
        loop.add_signal_handler("USR1", print)
    with pytest.raises(ValueError, match="invalid signal number 1000"):
        loop.add_signal_handler(1000, print)
    with pytest.raises(RuntimeError, match="sig 9 cannot be caught"):
        loop.add_signal_handler(signal.SIGKILL, print)
    with pytest.raises(RuntimeError, match="sig 19 cannot be caught"):
        loop.add_signal_handler(signal.SIGSTOP, print)
    with pytest.raises(TypeError, match="sig must be an int, not None"):
        loop.remove_signal_handler(None)
    with pytest.raises(ValueError, match="invalid signal number 0"):
        loop.remove_signal_handler(0)
    assert loop.remove_signal_handler(signal.SIGKILL) is False
    assert not loop._signal_handlers


def test_a_closed_loop_takes_none(impl):
    loop = impl.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_signal_handler(USR1, print)


def test_a_loop_in_another_thread_takes_none(impl):
    raised = []

    def work():
        loop = impl.new_event_loop()
        try:
            loop.add_signal_handler(USR1, print)
        except BaseException as error:
            raised.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert type(raised[0]) is RuntimeError
    assert "main thread" in str(raised[0])


def test_closing_removes_them(impl):
    loop = impl.new_event_loop()
    loop.add_signal_handler(USR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    assert signal.set_wakeup_fd(-1) != -1
    loop.close()
    assert signal.getsignal(USR1) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_last_one_gives_the_wakeup_descriptor_back(loop):
    loop.add_signal_handler(USR1, print)
    loop.add_signal_handler(USR2, print)
    loop.remove_signal_handler(USR1)
    fd = signal.set_wakeup_fd(-1)
    assert fd != -1
    signal.set_wakeup_fd(fd)
    loop.remove_signal_handler(USR2)
    assert signal.set_wakeup_fd(-1) == -1


def test_system_calls_go_on(loop):
    """By siginterrupt(): signals do not interrupt waits of C libraries."""
    libc = ctypes.CDLL(None, use_errno=True)
    reader, writer = os.pipe()
    main = threading.main_thread().ident

    def send():
        time.sleep(0.01)
        signal.pthread_kill(main, USR1)
        time.sleep(0.01)
        os.write(writer, b"x")

    loop.add_signal_handler(USR1, print)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert libc.read(reader, ctypes.create_string_buffer(1), 1) == 1
    finally:
        thread.join()
        os.close(reader)
        os.close(writer)


def test_a_handler_runs_in_the_context_it_was_added_in(run, aio):
    import contextvars

    variable = contextvars.ContextVar("variable", default="none")

    async def main():
        loop = aio.get_running_loop()
        called = loop.create_future()
        variable.set("at adding")
        loop.add_signal_handler(USR1, lambda: called.set_result(variable.get()))
        variable.set("later")
        os.kill(os.getpid(), USR1)
        assert await called == "at adding"

    run(main())


def test_an_exception_in_a_handler(run, aio, problems):
    async def main():
        loop = aio.get_running_loop()
        done = loop.create_future()
        loop.add_signal_handler(USR1, lambda: 1 / 0)
        loop.add_signal_handler(USR2, done.set_result, None)
        os.kill(os.getpid(), USR1)
        await aio.sleep(0.001)
        os.kill(os.getpid(), USR2)
        await done

    run(main())
    assert [type(context["exception"]) for context in problems] == [ZeroDivisionError]
    assert "Exception in callback" in problems[0]["message"]


def test_an_exit_in_a_handler_ends_the_run(loop):
    def leave():
        raise SystemExit(3)

    loop.add_signal_handler(USR1, leave)
    loop.call_soon(os.kill, os.getpid(), USR1)
    with pytest.raises(SystemExit) as caught:
        loop.run_forever()
    assert caught.value.code == 3
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_a_storm_of_signals(run, aio):
    async def main():
        loop = aio.get_running_loop()
        seen = {USR1: 0, USR2: 0}
        done = loop.create_future()

        def count(number):
            seen[number] += 1

        loop.add_signal_handler(USR1, count, USR1)
        loop.add_signal_handler(USR2, count, USR2)
        loop.add_signal_handler(signal.SIGWINCH, done.set_result, None)

        def send():
            # More signals than the wakeup descriptor's buffer holds would be lost, with a warning.
            for _ in range(50):
                os.kill(os.getpid(), USR1)
                os.kill(os.getpid(), USR2)
            os.kill(os.getpid(), signal.SIGWINCH)

        thread = threading.Thread(target=send)
        thread.start()
        await done
        while thread.is_alive():
            await aio.sleep(0.001)
        # The kernel keeps one pending signal of each kind.
        assert 1 <= seen[USR1] <= 50
        assert 1 <= seen[USR2] <= 50

    run(main())


def test_beside_a_handler_of_the_program_s_own(run, aio):
    async def main():
        loop = aio.get_running_loop()
        called = []
        done = loop.create_future()
        signal.signal(USR1, lambda number, frame: called.append(number))
        loop.add_signal_handler(USR2, done.set_result, None)
        os.kill(os.getpid(), USR1)
        os.kill(os.getpid(), USR2)
        await done
        assert called == [USR1]

    before = signal.getsignal(USR1)
    try:
        run(main())
    finally:
        signal.signal(USR1, before)


def test_python_handlers_run_while_the_loop_sleeps_and_may_raise(loop):
    class Enough(Exception):
        pass

    def enough(number, frame):
        raise Enough

    before = signal.signal(USR1, enough)
    try:
        threads = []
        # Sent from a callback with a delay, so that the loop is waiting when the signal arrives.
        loop.call_soon(lambda: threads.append(send_later(USR1, delay=0.05)))
        with pytest.raises(Enough):
            loop.run_forever()
        threads[0].join()
    finally:
        signal.signal(USR1, before)
    assert not loop.is_running()
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_posting_from_a_handler_of_python_s(run, aio):
    async def main():
        loop = aio.get_running_loop()
        called = loop.create_future()
        signal.signal(USR1, lambda number, frame: loop.call_soon_threadsafe(called.set_result, number))
        thread = send_later(USR1)
        assert await called == USR1
        thread.join()

    before = signal.getsignal(USR1)
    try:
        run(main())
    finally:
        signal.signal(USR1, before)


def test_signals_while_native_code_runs(run, aio):
    """The tasks hardly run Python code, where signal handlers run.

    All posts of a handler must arrive.
    """

    async def main():
        loop = aio.get_running_loop()
        posted, arrived = [], []

        def post(number, frame):
            posted.append(len(posted))
            loop.call_soon_threadsafe(arrived.append, posted[-1])

        signal.signal(USR1, post)
        queue = aio.Queue(1)
        thread = send_later(USR1, 20)
        sent = 0

        async def put():
            nonlocal sent
            while thread.is_alive():
                await queue.put(sent)
                sent += 1
            await queue.put(None)

        putting = aio.create_task(put())
        received = 0
        while await queue.get() is not None:
            received += 1
        await putting
        assert received == sent
        await aio.sleep(0.001)
        # The next signal may interrupt a handler before it has posted.
        assert sorted(arrived) == posted
        assert posted

    before = signal.getsignal(USR1)
    try:
        run(main())
    finally:
        signal.signal(USR1, before)


# ---- Ctrl-C ----


def test_ctrl_c_is_a_cancellation_of_the_main_task(impl, aio):
    notes = []

    async def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await aio.sleep(30)
        except asyncio.CancelledError:
            notes.append("cancelled")
            raise

    with pytest.raises(KeyboardInterrupt), aio.Runner(loop_factory=impl.new_event_loop) as runner:
        runner.run(main())
    assert notes == ["cancelled"]


def test_ctrl_c_that_the_main_task_swallows(impl, aio):
    async def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await aio.sleep(30)
        except asyncio.CancelledError:
            return "went on"

    with aio.Runner(loop_factory=impl.new_event_loop) as runner:
        assert runner.run(main()) == "went on"
        assert runner.run(main()) == "went on"


def test_a_second_ctrl_c_is_raised_at_once(impl, aio):
    notes = []

    async def main():
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await aio.sleep(30)
        except asyncio.CancelledError:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000):
                    pass
            except KeyboardInterrupt:
                notes.append("at once")
                raise

    with pytest.raises(KeyboardInterrupt), aio.Runner(loop_factory=impl.new_event_loop) as runner:
        runner.run(main())
    assert notes == ["at once"]


def test_ctrl_c_with_a_handler_of_the_program_s_own(impl, aio):
    called = []

    async def main():
        assert signal.getsignal(signal.SIGINT) is mine
        os.kill(os.getpid(), signal.SIGINT)
        await aio.sleep(0.001)
        return "untouched"

    def mine(number, frame):
        called.append(number)

    before = signal.signal(signal.SIGINT, mine)
    try:
        with aio.Runner(loop_factory=impl.new_event_loop) as runner:
            assert runner.run(main()) == "untouched"
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)
    assert called == [signal.SIGINT]


def test_ctrl_c_handled_by_the_loop(impl, aio):
    async def main():
        loop = aio.get_running_loop()
        called = loop.create_future()
        loop.add_signal_handler(signal.SIGINT, called.set_result, "by the loop")
        os.kill(os.getpid(), signal.SIGINT)
        return await called

    with aio.Runner(loop_factory=impl.new_event_loop) as runner:
        assert runner.run(main()) == "by the loop"


def test_running_in_a_thread_leaves_ctrl_c_alone(impl, aio):
    seen = []

    async def main():
        seen.append(signal.getsignal(signal.SIGINT))

    def work():
        with aio.Runner(loop_factory=impl.new_event_loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_ctrl_c_in_the_main_thread_while_loops_run_in_others(impl):
    process = child(
        impl,
        """
        import threading
        stop = threading.Event()
        ended = []

        def work():
            async def other():
                while not stop.is_set():
                    await asyncio.sleep(0.001)
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(other())
            ended.append(True)

        async def main():
            print("ready", flush=True)
            for _ in range(100):
                await asyncio.sleep(0.2)  # asyncio does not notice a signal that comes just before it waits

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            stop.set()
            for thread in threads:
                thread.join()
            print("interrupted", len(ended))
        """,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert (out, err, process.returncode) == ("interrupted 3\n", "", 0)


def test_the_default_handler_ends_run_forever_at_any_moment(impl):
    """Wherever the signal interrupts the loop, it raises KeyboardInterrupt and can run again."""
    if impl.name == "asyncio":
        pytest.skip("asyncio is not if the signal comes while it tidies up")
    process = child(
        impl,
        """
        import signal
        loop = asyncio.new_event_loop()

        def again():
            loop.call_soon(again)

        loop.call_soon(again)
        print("ready", flush=True)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for _ in range(20):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.002)
                loop.run_forever()
            except KeyboardInterrupt:
                assert not loop.is_running()
        handle = loop.call_later(0.001, loop.stop)
        loop.run_forever()
        loop.close()
        print("done")
        """,
    )
    out, err = finish(process)
    assert (out, process.returncode) == ("ready\ndone\n", 0), err


# ---- signals while the loop waits ----


def taken_by_another_thread(number):
    """A thread that signals itself, so that no system call of another thread is interrupted."""

    def take():
        time.sleep(0.02)  # the loop is waiting by then
        signal.pthread_kill(threading.get_ident(), number)

    thread = threading.Thread(target=take)
    thread.start()
    return thread


async def woken_by_another_threads_signal(aio):
    woken = aio.get_running_loop().create_future()
    signal.signal(USR1, lambda *_: woken.set_result("by the signal"))
    thread = taken_by_another_thread(USR1)
    async with aio.timeout(20):
        assert await woken == "by the signal"
    thread.join()


@pytest.fixture
def wakes_for_any_thread(impl):
    if impl.name == "asyncio":
        pytest.skip("asyncio waits until something else happens")


@pytest.mark.usefixtures("wakes_for_any_thread")
def test_a_signal_that_another_thread_takes_wakes_the_loop(run, aio):
    async def main():
        await woken_by_another_threads_signal(aio)

    run(main())
    signal.signal(USR1, signal.SIG_DFL)


@pytest.mark.usefixtures("wakes_for_any_thread")
def test_ctrl_c_that_another_thread_takes_ends_the_program(impl):
    process = child(
        impl,
        """
        import signal, threading, time

        def take():
            time.sleep(0.05)
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

        async def main():
            threading.Thread(target=take).start()
            await asyncio.sleep(20)

        begin = time.monotonic()
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - begin < 10)
        """,
    )
    out, err = finish(process)
    assert (out, err, process.returncode) == ("interrupted True\n", "", 0)


@pytest.mark.usefixtures("wakes_for_any_thread")
def test_signals_wake_a_loop_whose_last_handler_was_removed(run, aio):
    async def main():
        loop = aio.get_running_loop()
        loop.add_signal_handler(USR2, print)
        assert loop.remove_signal_handler(USR2)
        with pytest.raises(RuntimeError, match="sig 9 cannot be caught"):
            loop.add_signal_handler(signal.SIGKILL, print)
        await woken_by_another_threads_signal(aio)

    run(main())
    signal.signal(USR1, signal.SIG_DFL)


def test_a_wakeup_descriptor_of_the_program_stays(run, aio):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    async def main():
        await aio.sleep(0)
        signal.raise_signal(USR1)
        await aio.sleep(0.001)

    signal.signal(USR1, lambda *_: None)
    signal.set_wakeup_fd(writer)
    run(main())
    assert signal.set_wakeup_fd(-1) == writer
    signal.signal(USR1, signal.SIG_DFL)
    assert os.read(reader, 10) == bytes([USR1])
    os.close(reader)
    os.close(writer)


def test_a_wakeup_descriptor_that_the_program_sets_meanwhile_stays(run, aio):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    async def main():
        signal.set_wakeup_fd(writer)
        await aio.sleep(0.001)

    run(main())
    assert signal.set_wakeup_fd(-1) == writer
    os.close(reader)
    os.close(writer)


# ---- interpreter shutdown ----


def test_loops_in_daemon_threads_do_not_hold_up_the_end(impl):
    process = child(
        impl,
        """
        import threading, time

        async def busy():
            async def handle(reader, writer):
                writer.close()
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            started.release()
            while True:
                await asyncio.sleep(0)

        async def idle():
            started.release()
            await asyncio.to_thread(time.sleep, 0)
            await asyncio.sleep(60)

        started = threading.Semaphore(0)
        for main in (busy, idle, idle):
            threading.Thread(target=lambda main=main: asyncio.run(main()), daemon=True).start()
        for _ in range(3):
            started.acquire()
        print("end", flush=True)
        """,
    )
    # Messages about a daemon thread that is stopped at exit don't matter. The process must exit,
    # with status 0.
    out, _ = finish(process)
    assert (out, process.returncode) == ("end\n", 0)


def test_importing_in_a_subinterpreter_says_that_it_can_not(impl):
    if not impl.is_rondel:
        pytest.skip("asyncio can")
    out = output(
        impl,
        """
        try:
            import _interpreters
            interpreter = _interpreters.create("legacy")
        except ImportError:
            import _xxsubinterpreters as _interpreters
            interpreter = _interpreters.create(isolated=False)
        text = "try:\\n    import rondel\\nexcept ImportError as error:\\n    print(error, flush=True)"
        _interpreters.run_string(interpreter, text)
        _interpreters.destroy(interpreter)
        asyncio.run(asyncio.sleep(0))
        """,
    )
    assert "rondel can't be imported in a subinterpreter, only in the main interpreter" in out


def test_warnings_for_what_is_left_open(impl):
    out = output(
        impl,
        """
        import gc, warnings

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            loop.call_later(60, print)
            await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            assert not loop.is_closed()
            del loop
            gc.collect()
        texts = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
        print(any(text.startswith("unclosed event loop <") for text in texts))
        print(any(text.startswith("unclosed transport <") for text in texts))
        """,
        "-X",
        "dev",
    )
    assert out == "True\nTrue\n"


def test_a_destructor_that_runs_as_a_coroutine_ends_and_notes_where(impl):
    """In debug mode scheduling records the stack, and the coroutine's frame is gone already."""
    out = output(
        impl,
        """
        async def main():
            ended = asyncio.Event()

            async def handle(reader, writer):
                ended.set()

            # No `async with`: its exit would wait for the connection, which a writer's destructor
            # closes only from 3.13 on.
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await ended.wait()
            server.close()
            writer.close()
            await writer.wait_closed()
            print("closed")

        import warnings
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.run(main())
        """,
        "-X",
        "dev",
    )
    assert out == "closed\n"
