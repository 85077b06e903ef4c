"""Child processes: `create_subprocess_exec` and `_shell`, transports, waiting for the exit."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from asyncio import base_subprocess, unix_events

import pytest

PIPE = subprocess.PIPE
SH = "/bin/sh"


def children():
    """Return the PIDs of this process's children, including zombies."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found.update(map(int, file.read().split()))
        except FileNotFoundError:
            pass  # a thread that has ended
    return found


@pytest.fixture(autouse=True)
def _no_child_is_left():
    before = children()
    yield
    left = children() - before
    assert not left, f"children left, running or as zombies: {left}"


async def output_of(aio, *args, **options):
    process = await aio.create_subprocess_exec(*args, stdout=PIPE, **options)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


# ---- starting and waiting ----


def test_a_program_runs_and_its_status_is_known(run, aio):
    async def main():
        process = await aio.create_subprocess_exec(SH, "-c", "exit 7")
        assert isinstance(process, asyncio.subprocess.Process)
        assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
        assert repr(process) == f"<Process {process.pid}>"
        assert await process.wait() == 7
        assert process.returncode == 7
        assert await process.wait() == 7
        assert process.pid not in children()

    run(main())


def test_a_shell_runs_commands(run, aio):
    async def main():
        process = await aio.create_subprocess_shell("echo out; echo err >&2; exit 3", stdout=PIPE, stderr=PIPE)
        assert await process.communicate() == (b"out\n", b"err\n")
        assert process.returncode == 3
        process = await aio.create_subprocess_shell(b"echo bytes", stdout=PIPE)
        assert await process.communicate() == (b"bytes\n", None)

    run(main())


def test_what_goes_in_comes_out(run, aio):
    data = os.urandom(1 << 20)

    async def main():
        process = await aio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
        assert await process.communicate(data) == (data, None)

    run(main())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGHUP", "SIGSEGV", "SIGUSR1"])
def test_a_signal_that_ends_the_child_is_a_negative_status(run, aio, name):
    number = getattr(signal, name)

    async def main():
        process = await aio.create_subprocess_exec(SH, "-c", "read line", stdin=PIPE)
        if number == signal.SIGTERM:
            process.terminate()
        elif number == signal.SIGKILL:
            process.kill()
        else:
            process.send_signal(number)
        assert await process.wait() == -number
        process.stdin.close()

    run(main())


def test_a_stopped_child_has_not_ended(run, aio):
    async def main():
        process = await aio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(asyncio.TimeoutError):
            await aio.wait_for(process.wait(), 0.02)
        assert process.returncode is None
        process.send_signal(signal.SIGCONT)
        assert await process.communicate(b"goes on") == (b"goes on", None)
        assert process.returncode == 0

    run(main())


def test_signals_to_a_child_that_has_ended_are_refused(run, aio):
    async def main():
        process = await aio.create_subprocess_exec("/bin/true")
        await process.wait()
        await aio.sleep(0)
        await aio.sleep(0)
        for send in (process.kill, process.terminate, lambda: process.send_signal(signal.SIGUSR1)):
            with pytest.raises(ProcessLookupError):
                send()

    run(main())


def test_many_wait_for_one_child(run, aio):
    async def main():
        process = await aio.create_subprocess_exec(SH, "-c", "read line; exit 5", stdin=PIPE)
        waiting = [aio.create_task(process.wait()) for _ in range(3)]
        await aio.sleep(0)
        waiting[0].cancel()
        await aio.sleep(0)
        process.stdin.close()
        assert await aio.gather(*waiting[1:]) == [5, 5]
        assert waiting[0].cancelled()

    run(main())


def test_many_children_at_once_take_no_thread_each(run, aio, impl):
    async def main():
        before = threading.active_count()
        started = [await aio.create_subprocess_exec(SH, "-c", f"read line; exit {n}", stdin=PIPE) for n in range(30)]
        if impl.is_rondel or sys.version_info >= (3, 12):
            assert threading.active_count() == before
        for process in reversed(started):
            process.stdin.close()
        assert await aio.gather(*(process.wait() for process in started)) == list(range(30))

    run(main())


def test_a_child_that_ends_between_two_runs(impl, aio):
    with aio.Runner(loop_factory=impl.new_event_loop) as runner:
        process = runner.run(aio.create_subprocess_exec("/bin/sleep", "60"))
        os.kill(process.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # on 3.11 a thread of asyncio's has reaped it
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert runner.run(process.wait()) == -signal.SIGKILL


def test_loops_in_threads_have_children(impl, aio):
    statuses = []

    async def main(number):
        process = await aio.create_subprocess_exec(SH, "-c", f"cat; exit {number}", stdin=PIPE, stdout=PIPE)
        statuses.append((*(await process.communicate(b"%d" % number)), process.returncode))

    def work(number):
        with aio.Runner(loop_factory=impl.new_event_loop) as runner:
            runner.run(main(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [(b"%d" % number, None, number) for number in range(4)]


# ---- Popen's parameters ----


def test_where_and_with_what_it_runs(run, aio, tmp_path):
    async def main():
        assert await output_of(aio, "/bin/pwd", cwd=tmp_path) == str(tmp_path.resolve())
        assert await output_of(aio, SH, "-c", "echo $A:$HOME", env={"A": "only"}) == "only:"
        assert await output_of(aio, SH, "-c", "umask", umask=0o35) == "0035"
        assert await output_of(aio, "called so", "-c", "echo $0", executable=SH) == "called so"
        assert await output_of(aio, SH, "-c", "echo text", text=False) == "text"

    run(main())


def test_groups_and_sessions(run, aio):
    async def main():
        process = await aio.create_subprocess_exec("/bin/cat", stdin=PIPE, process_group=0)
        assert os.getpgid(process.pid) == process.pid
        await process.communicate(b"")
        process = await aio.create_subprocess_exec("/bin/cat", stdin=PIPE, start_new_session=True)
        assert os.getsid(process.pid) == process.pid
        await process.communicate(b"")

    run(main())


@pytest.mark.skipif(os.getuid() != 0, reason="only root may be somebody else")
def test_who_it_runs_as(run, aio):
    async def main():
        options = {"user": 65534, "group": 65533, "extra_groups": [65532]}
        assert await output_of(aio, SH, "-c", "id -u; id -g; id -G", cwd="/", **options) == "65534\n65533\n65533 65532"

    run(main())


def test_which_descriptors_it_gets(run, aio):
    async def main():
        reader, writer = os.pipe()
        try:
            look = (SH, "-c", f"[ -e /dev/fd/{writer} ] && echo open || echo closed")
            assert await output_of(aio, *look) == "closed"
            assert await output_of(aio, *look, pass_fds=[writer]) == "open"
            assert await output_of(aio, *look, close_fds=False) == "closed"
            os.set_inheritable(writer, True)
            assert await output_of(aio, *look, close_fds=False) == "open"
        finally:
            os.close(reader)
            os.close(writer)

    run(main())


def test_what_runs_before_the_program(run, aio):
    async def main():
        # Visible only there: the child has its own memory.
        assert await output_of(aio, SH, "-c", "pwd", preexec_fn=lambda: os.chdir("/")) == "/"

    run(main())


def test_which_signals_it_ignores(run, aio):
    def ignored():
        return subprocess.run([SH, "-c", "grep SigIgn /proc/self/status"], restore_signals=False, capture_output=True)

    async def main():
        look = (SH, "-c", "grep SigIgn /proc/self/status")
        bit = 1 << (signal.SIGPIPE - 1)
        restored = await output_of(aio, *look)
        kept = await output_of(aio, *look, restore_signals=False)
        assert not int(restored.split()[1], 16) & bit
        assert int(kept.split()[1], 16) & bit

    run(main())


def test_how_large_its_pipes_are(run, aio):
    async def main():
        process = await aio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE, pipesize=8192)
        pipe = process._transport.get_pipe_transport(1).get_extra_info("pipe")
        import fcntl

        assert fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ) == 8192
        await process.communicate(b"")

    run(main())


def test_where_its_streams_go(run, aio):
    async def main():
        with tempfile.TemporaryFile() as file:
            process = await aio.create_subprocess_shell("echo out; echo err >&2", stdout=file, stderr=subprocess.STDOUT)
            assert await process.wait() == 0
            file.seek(0)
            assert file.read() == b"out\nerr\n"
            file.seek(0)
            # As a descriptor number, for reading.
            assert await output_of(aio, "/bin/cat", stdin=file.fileno()) == "out\nerr"
        assert await output_of(aio, "/bin/cat", stdin=subprocess.DEVNULL) == ""
        process = await aio.create_subprocess_shell("echo a; echo b >&2", stdout=PIPE, stderr=subprocess.STDOUT)
        assert await process.communicate() == (b"a\nb\n", None)
        assert process.stderr is None
        process = await aio.create_subprocess_shell("echo a", stdout=subprocess.DEVNULL)
        assert await process.wait() == 0

    run(main())


# ---- errors ----


def test_a_program_that_is_not_there(run, aio):
    async def main():
        with pytest.raises(FileNotFoundError) as caught:
            await aio.create_subprocess_exec("/no/such/program", stdin=PIPE, stdout=PIPE)
        assert caught.value.filename == "/no/such/program"
        with pytest.raises(FileNotFoundError) as caught:
            await aio.create_subprocess_exec("/bin/true", cwd="/no/such/folder")
        assert caught.value.filename == "/no/such/folder"

    run(main())


def test_a_program_that_can_not_be_run(run, aio, tmp_path):
    program = tmp_path / "program"
    program.write_text("no program")

    async def main():
        with pytest.raises(PermissionError) as caught:
            await aio.create_subprocess_exec(str(program), stdout=PIPE)
        assert caught.value.filename == str(program)
        program.chmod(0o755)
        with pytest.raises(OSError, match="Exec format error"):
            await aio.create_subprocess_exec(str(program))

    run(main())


def test_an_exception_before_the_program_runs(run, aio):
    async def main():
        with pytest.raises(subprocess.SubprocessError) as caught:
            await aio.create_subprocess_exec("/bin/true", stdin=PIPE, preexec_fn=lambda: 1 / 0)
        assert str(caught.value) == "Exception occurred in preexec_fn."

    run(main())


REFUSED = [
    ({"universal_newlines": True}, "universal_newlines must be False"),
    ({"text": True}, "text must be False"),
    ({"bufsize": 1}, "bufsize must be 0"),
    ({"encoding": "utf-8"}, "encoding must be None"),
    ({"errors": "strict"}, "errors must be None"),
]


@pytest.mark.parametrize(
    ("options", "message"), REFUSED, ids=lambda value: next(iter(value)) if type(value) is dict else ""
)
def test_what_only_popen_takes(run, aio, options, message):
    async def main():
        with pytest.raises(ValueError, match=message):
            await aio.create_subprocess_exec("/bin/true", **options)
        with pytest.raises(ValueError, match=message):
            await aio.create_subprocess_shell("true", **options)

    run(main())


def test_a_shell_for_a_program_and_none_for_a_command(run, aio):
    async def main():
        loop = aio.get_running_loop()
        with pytest.raises(ValueError, match="shell must be False"):
            await aio.create_subprocess_exec("/bin/true", shell=True)
        with pytest.raises(ValueError, match="shell must be True"):
            await aio.create_subprocess_shell("true", shell=False)
        with pytest.raises(ValueError, match="cmd must be a string"):
            await loop.subprocess_shell(aio.SubprocessProtocol, ["true"])
        with pytest.raises(TypeError):
            await aio.create_subprocess_exec("/bin/true", no_such_option=1)
        with pytest.raises(TypeError):
            await aio.create_subprocess_exec(7)

    run(main())


# ---- streams ----


def test_lines_as_they_come(run, aio):
    async def main():
        process = await aio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
        for number in range(3):
            process.stdin.write(b"line %d\n" % number)
            await process.stdin.drain()
            assert await process.stdout.readline() == b"line %d\n" % number
        process.stdin.writelines([b"a\n", b"b"])
        process.stdin.close()
        await process.stdin.wait_closed()
        assert process.stdin.is_closing()
        assert [line async for line in process.stdout] == [b"a\n", b"b"]
        assert await process.wait() == 0

    run(main())


def test_the_limit_of_a_line(run, aio):
    async def main():
        process = await aio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE, limit=64)
        process.stdin.write(b"x" * 100 + b"\n" + b"short\n")
        with pytest.raises(ValueError, match="Separator is found, but chunk is longer than limit"):
            await process.stdout.readline()
        assert await process.stdout.readline() == b"short\n"
        process.stdin.close()
        assert await process.wait() == 0

    run(main())


def test_a_child_that_does_not_read(run, aio):
    async def main():
        process = await aio.create_subprocess_exec(SH, "-c", "exec <&-; echo done", stdin=PIPE, stdout=PIPE)
        assert await process.communicate(b"x" * (1 << 20)) == (b"done\n", None)
        assert process.returncode == 0

    run(main())


def test_a_child_whose_output_nobody_reads_waits(run, aio):
    async def main():
        program = "i=0; while [ $i -lt 64 ]; do printf '%08192d' 0; i=$((i + 1)); done"
        process = await aio.create_subprocess_exec(SH, "-c", program, stdout=PIPE, limit=1024)
        await aio.sleep(0.05)
        assert process.returncode is None
        assert len(await process.stdout.read()) == 64 * 8192
        assert await process.wait() == 0

    run(main())


def test_a_grandchild_keeps_the_pipe_open(run, aio):
    async def main():
        process = await aio.create_subprocess_shell("exec 3<&0; cat <&3 & exit 6", stdin=PIPE, stdout=PIPE)
        # The child has exited, but its own child still has the pipe open.
        while process.returncode is None:
            await aio.sleep(0.001)
        process.stdin.write(b"late")
        process.stdin.close()
        assert await process.stdout.read() == b"late"
        assert await process.wait() == 6

    run(main())


# ---- the transport ----


class Notes(asyncio.SubprocessProtocol):
    def __init__(self, ended):
        self.notes = []
        self.ended = ended

    def connection_made(self, transport):
        self.notes.append("made")

    def pipe_data_received(self, fd, data):
        self.notes.append((fd, data))

    def pipe_connection_lost(self, fd, exc):
        self.notes.append((fd, exc))

    def process_exited(self):
        self.notes.append("exited")

    def connection_lost(self, exc):
        self.notes.append(("lost", exc))
        self.ended.set_result(None)


def test_what_a_protocol_is_told(run, aio):
    async def main():
        loop = aio.get_running_loop()
        ended = loop.create_future()
        program = "echo out; exec >&-; echo err >&2; read line; exit 9"
        transport, protocol = await loop.subprocess_exec(lambda: Notes(ended), SH, "-c", program)
        assert isinstance(transport, base_subprocess.BaseSubprocessTransport)
        assert isinstance(transport, unix_events._UnixSubprocessTransport)
        assert transport._proc is transport.get_extra_info("subprocess")
        assert isinstance(transport._proc, subprocess.Popen)
        assert transport.get_pid() == transport._pid == transport._proc.pid
        assert transport.get_returncode() is transport._returncode is None
        assert transport.get_pipe_transport(7) is None
        assert transport.get_protocol() is protocol
        assert not transport.is_closing()
        assert repr(transport).startswith(f"<_UnixSubprocessTransport pid={transport._pid} running stdin=")
        while (2, b"err\n") not in protocol.notes or (1, None) not in protocol.notes:
            await aio.sleep(0.001)
        # The order within each pipe is defined, but not the order between them.
        assert sorted(protocol.notes[1:], key=lambda note: note[0]) == [(1, b"out\n"), (1, None), (2, b"err\n")]
        transport.get_pipe_transport(0).write(b"\n")
        await ended
        assert protocol.notes[0] == "made"
        assert {note if note == "exited" else note[0] for note in protocol.notes[4:-1]} == {0, 2, "exited"}
        assert len(protocol.notes) == 8
        assert protocol.notes[-1] == ("lost", None)
        assert transport.get_returncode() == 9
        transport.close()
        assert transport.is_closing()
        assert "closed" in repr(transport)
        assert "returncode=9" in repr(transport)

    run(main())


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="told in the order in which the kernel reports")
def test_what_was_written_comes_before_the_end_is_told(run, aio, impl):
    if impl.name == "asyncio" and sys.version_info < (3, 12):
        pytest.skip("a thread of asyncio's waits, and may be first")

    async def main():
        loop = aio.get_running_loop()
        ended = loop.create_future()
        program = "read line; echo all"
        transport, protocol = await loop.subprocess_exec(lambda: Notes(ended), SH, "-c", program, stderr=None)
        os.write(transport.get_pipe_transport(0).get_extra_info("pipe").fileno(), b"\n")
        # The loop finds everything in one poll: the output, the ends of the pipes, the child's
        # exit.
        os.waitid(os.P_PID, transport.get_pid(), os.WEXITED | os.WNOWAIT)
        await ended
        assert protocol.notes.index((1, b"all\n")) < protocol.notes.index("exited")
        assert transport.get_returncode() == 0
        transport.close()

    run(main())


def test_closing_the_transport_ends_the_child(run, aio):
    async def main():
        loop = aio.get_running_loop()
        ended = loop.create_future()
        transport, protocol = await loop.subprocess_exec(lambda: Notes(ended), "/bin/cat")
        transport.close()
        transport.close()
        await ended
        assert transport.get_returncode() == -signal.SIGKILL
        assert {"exited", (0, None), (1, None), (2, None)} <= set(protocol.notes)

    run(main())


def test_a_start_that_is_cancelled_leaves_no_child(run, aio):
    async def main():
        start = aio.create_task(aio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE, stderr=PIPE))
        await aio.sleep(0)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    before = children()
    run(main())
    assert children() == before


def test_a_wait_that_is_cancelled_leaves_the_child(run, aio):
    async def main():
        process = await aio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
        with pytest.raises(asyncio.TimeoutError):
            await aio.wait_for(process.wait(), 0.01)
        assert await process.communicate(b"alive") == (b"alive", None)

    run(main())


# ---- other code that waits for children ----


def test_others_may_have_waited_for_it(run, aio, impl, caplog):
    if impl.name == "asyncio" and sys.version_info < (3, 12):
        pytest.skip("a thread of asyncio's waits, and may be first")

    async def main():
        process = await aio.create_subprocess_exec("/bin/sleep", "60")
        os.kill(process.pid, signal.SIGKILL)
        assert os.waitpid(process.pid, 0) == (process.pid, signal.SIGKILL)
        with caplog.at_level(logging.WARNING, "asyncio"):
            assert await process.wait() == 255
        assert "will report returncode 255" in caplog.text
        assert str(process.pid) in caplog.text

    run(main())


def test_a_process_that_ignores_its_children(run, aio, caplog):
    async def main():
        process = await aio.create_subprocess_exec("/bin/cat", stdin=PIPE)
        with caplog.at_level(logging.WARNING, "asyncio"):
            await process.communicate(b"")
        assert process.returncode == 255
        assert "will report returncode 255" in caplog.text

    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        run(main())
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_handler_of_sigchld_of_the_program_s_own(run, aio):
    seen = []

    async def main():
        # Children of the program: the loop must not reap them.
        theirs = subprocess.Popen([SH, "-c", "exit 2"])
        process = await aio.create_subprocess_exec(SH, "-c", "exit 3")
        assert await process.wait() == 3
        assert theirs.wait() == 2
        while len(seen) < 1:
            await aio.sleep(0.001)
        assert set(seen) == {signal.SIGCHLD}

    before = signal.signal(signal.SIGCHLD, lambda number, frame: seen.append(number))
    try:
        run(main())
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_loop_that_handles_sigchld_itself(run, aio):
    async def main():
        loop = aio.get_running_loop()
        called = aio.Event()
        loop.add_signal_handler(signal.SIGCHLD, called.set)
        process = await aio.create_subprocess_exec(SH, "-c", "exit 3")
        assert await process.wait() == 3
        await called.wait()
        assert loop.remove_signal_handler(signal.SIGCHLD)

    run(main())


def test_a_status_that_popen_has_read_is_not_lost(run, aio, impl, caplog):
    if not impl.is_rondel:
        pytest.skip("asyncio reports 255 (docs/compatibility.md)")

    async def main():
        process = await aio.create_subprocess_exec("/bin/sleep", "60")
        os.kill(process.pid, signal.SIGKILL)
        assert process._transport._proc.wait() == -signal.SIGKILL
        with caplog.at_level(logging.WARNING, "asyncio"):
            assert await process.wait() == -signal.SIGKILL
        assert not caplog.records

    run(main())


# ---- without pidfds ----


@pytest.mark.parametrize("code", ["ENOSYS", "EPERM", "EMFILE"])
def test_without_a_pidfd_a_thread_waits(run, aio, impl, monkeypatch, code):
    if not impl.is_rondel:
        pytest.skip("asyncio tries it once in the life of a process")
    import errno

    number = getattr(errno, code)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    async def main():
        monkeypatch.setattr(os, "pidfd_open", refuse)
        process = await aio.create_subprocess_exec(SH, "-c", "cat; exit 3", stdin=PIPE, stdout=PIPE)
        assert await process.communicate(b"by thread") == (b"by thread", None)
        assert process.returncode == 3

    run(main())


def test_a_child_that_is_gone_before_it_can_be_watched(run, aio, impl, monkeypatch, caplog):
    if not impl.is_rondel:
        pytest.skip("asyncio's create_subprocess_exec raises (docs/compatibility.md)")
    real = os.pidfd_open

    def reap_and_open(pid, *flags):
        os.waitpid(pid, 0)
        return real(pid, *flags)

    async def main():
        monkeypatch.setattr(os, "pidfd_open", reap_and_open)
        with caplog.at_level(logging.WARNING, "asyncio"):
            process = await aio.create_subprocess_exec(SH, "-c", "echo done", stdout=PIPE)
            assert await process.communicate() == (b"done\n", None)
        assert process.returncode == 255
        assert "will report returncode 255" in caplog.text

    run(main())


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there are no child watchers any more")
class TestChildWatchers:
    @pytest.fixture(autouse=True)
    def _put_back(self):
        policy = asyncio.get_event_loop_policy()
        watcher = policy._watcher
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
        policy._watcher = watcher

    def test_a_watcher_that_the_program_sets_is_used(self, run, aio):
        asked = []

        class Watcher(unix_events.ThreadedChildWatcher):
            def add_child_handler(self, pid, callback, *args):
                asked.append(pid)
                super().add_child_handler(pid, callback, *args)

        async def main():
            aio.set_child_watcher(Watcher())
            process = await aio.create_subprocess_exec(SH, "-c", "exit 3")
            assert await process.wait() == 3
            assert asked == [process.pid]

        run(main())

    def test_a_watcher_by_signal(self, run, aio):
        async def main():
            watcher = unix_events.SafeChildWatcher()
            watcher.attach_loop(aio.get_running_loop())
            aio.set_child_watcher(watcher)
            process = await aio.create_subprocess_exec(SH, "-c", "exit 3")
            assert await process.wait() == 3
            aio.set_child_watcher(None)

        run(main())

    def test_a_watcher_that_is_not_active(self, run, aio):
        async def main():
            aio.set_child_watcher(unix_events.SafeChildWatcher())
            with pytest.raises(RuntimeError, match="not activated, subprocess support is not installed"):
                await aio.create_subprocess_exec("/bin/true")

        run(main())

    def test_a_policy_with_a_watcher_of_its_own(self, impl, aio):
        asked = []

        class Policy(type(asyncio.get_event_loop_policy())):
            def get_child_watcher(self):
                asked.append(True)
                return super().get_child_watcher()

        before = asyncio.get_event_loop_policy()

        async def main():
            process = await aio.create_subprocess_exec(SH, "-c", "exit 3")
            assert await process.wait() == 3

        aio.set_event_loop_policy(Policy())
        try:
            with aio.Runner(loop_factory=impl.new_event_loop) as runner:
                runner.run(main())
        finally:
            aio.set_event_loop_policy(before)
        assert asked


@pytest.mark.skipif(sys.version_info < (3, 14), reason="the loop has no watcher of its own")
def test_a_thread_waits_where_the_loop_s_watcher_says_so(run, aio):
    async def main():
        aio.get_running_loop()._watcher = unix_events._ThreadedChildWatcher()
        process = await aio.create_subprocess_exec(SH, "-c", "read line; exit 3", stdin=PIPE)
        assert any(thread.name.startswith("asyncio-waitpid") for thread in threading.enumerate())
        process.stdin.close()
        assert await process.wait() == 3

    run(main())


# ---- cleanup ----


def test_a_loop_that_is_closed_while_a_child_runs(impl, aio):
    if not impl.is_rondel:
        pytest.skip("asyncio loses the descriptor")

    async def main():
        return await aio.create_subprocess_exec("/bin/sleep", "60")

    before = children()
    with aio.Runner(loop_factory=impl.new_event_loop) as runner:
        process = runner.run(main())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del process, runner
        gc.collect()
    assert {str(warning.message).partition(" pid")[0] for warning in caught if warning.category is ResourceWarning} >= {
        "unclosed transport <_UnixSubprocessTransport"
    }
    # The transport's destructor has killed it; starting the next child reaps it.
    for _ in range(1000):
        subprocess._cleanup()
        if children() == before:
            break
        time.sleep(0.001)
