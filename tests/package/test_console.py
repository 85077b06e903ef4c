"""The interactive console of `python -m rondel` and `python -m asyncio`, on a pseudo-terminal.

The same keys are typed at both, each after the response to the previous one. The terminal must show
the same.
"""

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time

import pytest

PROMPT = ">>> "
INTERRUPTED = "KeyboardInterrupt\r\n>>> "
#: A callback prints this, not the line's own task: asyncio's console can lose a Ctrl-C that comes
#: before the task is suspended.
WAIT = "h = asyncio.get_running_loop().call_later(0.01, print, 'waits'); await asyncio.sleep(60)"
GREETING = re.compile(r"Rondel \S+: asyncio's names are Rondel's here\.\r\n")
#: The line number depends on whether the result was ready when the console's thread asked for it.
WHERE = re.compile(r'(/concurrent/futures/_base.py", line )\d+')


class Terminal:
    """A program on a pseudo-terminal of its own."""

    def __init__(self, home, *command, **environment):
        self.seen = ""
        self._answered = 0
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=home,
            env={**os.environ, "HOME": str(home), "TERM": "dumb", "PYTHON_BASIC_REPL": "1", **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def expect(self, text):
        """Wait until the program has written `text`, after the texts expected before."""
        deadline = time.monotonic() + 30
        while (at := self.seen.find(text, self._answered)) < 0:
            assert self._read(deadline), f"{text!r} did not come: {self.seen!r}"
        self._answered = at + len(text)

    def type(self, keys, answer=PROMPT):
        if keys == "\x03":
            # Nor may it come while the callback that printed it still runs, or while the loop is
            # restarted.
            time.sleep(0.05)
        os.write(self._ours, keys.encode())
        self.expect(answer)

    def end(self, keys):
        """Type the last keys; return the exit status."""
        os.write(self._ours, keys.encode())
        deadline = time.monotonic() + 30
        while self._read(deadline):
            pass
        return self.process.wait(30)

    def _read(self, deadline):
        if not select.select([self._ours], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise AssertionError(f"no more came: {self.seen!r}")
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux reports this when the other side is closed
            return False
        self.seen += data.decode()
        return bool(data)


def shown(text):
    """Remove what depends on timing.

    The console may get a Ctrl-D before it sets up the terminal.
    """
    return WHERE.sub(r"\1N", text).replace("^D\b\b", "").replace("\r\n\r\n", "\r\n").replace(">>> \r\n", ">>> ")


def alike(home, keys, last="exit()\n", **environment):
    """Type at both consoles; return the output and the exit status, which must be equal."""
    with (
        Terminal(home, "-m", "asyncio", **environment) as stock,
        Terminal(home, "-m", "rondel", **environment) as ours,
    ):
        ends = []
        for terminal in (stock, ours):
            terminal.expect(PROMPT)
            terminal.expect(PROMPT)
            for step in keys:
                terminal.type(*step) if isinstance(step, tuple) else terminal.type(step)
            ends.append(terminal.end(last))
    assert ends[1] == ends[0]
    assert GREETING.match(ours.seen)
    assert shown(GREETING.sub("", ours.seen)) == shown(stock.seen)
    return ours.seen, ends[1]


def test_await_at_top_level(tmp_path):
    text, status = alike(
        tmp_path,
        [
            "x = await asyncio.sleep(0, 41)\n",
            "x + 1\n",
            "f = lambda: asyncio.sleep(0, 'from f')\n",
            "await asyncio.gather(f(), f())\n",
            "task = asyncio.create_task(f())\n",
            "await task\n",
            "__name__\n",
        ],
    )
    assert "\r\n42\r\n" in text
    assert "['from f', 'from f']" in text
    assert "'__main__'" in text
    assert status == 0


def test_the_loop_is_rondels(tmp_path):
    with Terminal(tmp_path, "-m", "rondel") as terminal:
        terminal.expect(PROMPT)
        terminal.expect(PROMPT)
        terminal.type("print(type(asyncio.get_running_loop()).__module__)\n", "\r\nrondel._event_loop\r\n>>> ")
        terminal.type("import rondel; asyncio.Lock is rondel.Lock\n", "\r\nTrue\r\n>>> ")
        assert terminal.end("exit()\n") == 0


def test_what_is_raised(tmp_path):
    text, status = alike(
        tmp_path,
        [
            "1/0\n",
            "x = = 1\n",
            "raise ExceptionGroup('both', [ValueError(1), TypeError(2)])\n",
            "print('still here')\n",
        ],
    )
    assert "ZeroDivisionError: division by zero" in text
    assert "SyntaxError" in text
    assert "\r\nstill here\r\n" in text
    assert "command.py" not in text
    assert status == 0


@pytest.mark.parametrize("last", ["exit()\n", "exit(3)\n", "exit('a message')\n", "\x04", "raise SystemExit(4)\n"])
def test_endings(tmp_path, last):
    alike(tmp_path, [], last)


def test_ctrl_c_while_it_waits(tmp_path):
    text, status = alike(
        tmp_path,
        [
            (WAIT + "\n", "\r\nwaits"),
            ("\x03", INTERRUPTED),
            "await asyncio.sleep(0, 'goes on')\n",
        ],
    )
    assert "'goes on'" in text
    assert status == 0


def test_context_variables(tmp_path):
    """Context variables keep their values from line to line, from 3.14 on."""
    text, _ = alike(
        tmp_path,
        ["import contextvars; v = contextvars.ContextVar('v')\n", "token = v.set('kept')\n", "v.get('lost')\n"],
    )
    assert ("'kept'" if sys.version_info >= (3, 14) else "'lost'") in text.split("v.get")[1]


def test_history(tmp_path):
    """If the interpreter has GNU readline, Ctrl-P recalls the previous line."""
    pytest.importorskip("readline")
    text, _ = alike(tmp_path, ["40 + 2\n", "'another'\n", "\x10\x10\n"], TERM="vt100")
    assert text.count("42\r\n") == 2


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
def test_the_new_console(tmp_path):
    """With Python's own line editor, which needs a terminal that can move its cursor."""
    pytest.importorskip("curses")
    environment = {"TERM": "xterm", "PYTHON_BASIC_REPL": "", "NO_COLOR": "1", "PYTHON_COLORS": "0"}
    with Terminal(tmp_path, "-m", "rondel", **environment) as terminal:
        terminal.expect("import asyncio\r\n")
        terminal.expect(PROMPT)
        terminal.type("await asyncio.sleep(0, 40+2)\r", "42\r\n")
        terminal.expect(PROMPT)
        terminal.type("\x10\r", "42\r\n")
        terminal.expect(PROMPT)
        terminal.type(WAIT + "\r", "waits\r\n")
        terminal.type("\x03", "KeyboardInterrupt")
        terminal.expect(PROMPT)
        terminal.type("type(asyncio.get_running_loop()).__module__\r", "'rondel._event_loop'")
        terminal.expect(PROMPT)
        assert terminal.end("exit(5)\r") == 5


def test_quiet_and_debug(tmp_path):
    with Terminal(tmp_path, "-q", "-m", "rondel", "--debug") as terminal:
        terminal.expect(PROMPT)
        terminal.expect(PROMPT)
        assert not GREETING.search(terminal.seen)
        terminal.type("asyncio.get_running_loop().get_debug()\n", "\r\nTrue\r\n>>> ")
        assert terminal.end("exit()\n") == 0
