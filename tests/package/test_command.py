"""`python -m rondel` and `rondel`: a program behaves and exits as it does with `python`."""

import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROBE = """
import asyncio, sys
print(__name__, globals().get("__file__"), __spec__ and __spec__.name, __package__, sorted(set(globals()) - {"loop"}))
print(type(__loader__).__name__ if not isinstance(__loader__, type) else __loader__.__name__)
print(sys.argv, sys.path[0])
print(sys.modules["__main__"].__dict__ is globals())
"""


def run(*arguments, cwd=None, command=None, input=None, env=None):
    return subprocess.run(
        [*(command or [sys.executable]), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        input=input,
        timeout=50,
        env=env,
    )


def same(*arguments, cwd=None, input=None):
    """Run with `python` and `python -m rondel`: output and status must be equal.

    Return the first.
    """
    oracle = run(*arguments, cwd=cwd, input=input)
    ours = run(*arguments, cwd=cwd, input=input, command=[sys.executable, "-m", "rondel"])
    assert (ours.stdout, ours.stderr, ours.returncode) == (oracle.stdout, oracle.stderr, oracle.returncode)
    command = Path(sys.executable).with_name("rondel")
    if command.exists():
        script = run(*arguments, cwd=cwd, input=input, command=[str(command)])
        # The script may use another name for the environment's interpreter.
        interpreter = command.read_text().partition("\n")[0].removeprefix("#!")
        script.stderr = script.stderr.replace(interpreter, sys.executable)
        assert (script.stdout, script.stderr, script.returncode) == (oracle.stdout, oracle.stderr, oracle.returncode)
    return oracle


def test_a_file(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "probe.py").write_text(PROBE + "import neighbour\n")
    (folder / "neighbour.py").write_text("print('found the neighbour')\n")
    assert "found the neighbour" in same(str(folder / "probe.py"), "a", "--debug", "-m", cwd=tmp_path).stdout
    assert "folder/probe.py" in same("folder/probe.py", cwd=tmp_path).stdout
    (tmp_path / "link.py").symlink_to(folder / "probe.py")
    assert "found the neighbour" in same("link.py", cwd=tmp_path).stdout


def test_a_file_by_a_path_with_dots(tmp_path):
    """The path is not normalized, because without its dots it may be another file."""
    for folder in ("here", "there/inside"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "there" / "probe.py").write_text("print(__file__)\n")
    (tmp_path / "there" / "app").mkdir()
    (tmp_path / "there" / "app" / "__main__.py").write_text("import sys; print(__file__, sys.path[0])\n")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "inside")
    assert same("./there//probe.py", cwd=tmp_path).stdout == f"{tmp_path}/./there//probe.py\n"
    assert same("../there/probe.py", cwd=tmp_path / "here").stdout == f"{tmp_path}/here/../there/probe.py\n"
    assert same("link/../probe.py", cwd=tmp_path).stdout == f"{tmp_path}/link/../probe.py\n"
    assert same("link/../app", cwd=tmp_path).returncode == 0
    assert same("../missing.py", cwd=tmp_path / "here").returncode == 2
    assert same("there/probe.py/", cwd=tmp_path).returncode == 2


def test_a_module(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(PROBE)
    (package / "module.py").write_text(PROBE)
    assert "__main__" in same("-m", "package", "x", cwd=tmp_path).stdout
    assert "package.module" in same("-m", "package.module", "--version", cwd=tmp_path).stdout
    assert same("-mpackage.module", cwd=tmp_path).returncode == 0


def test_code():
    assert "['-c', 'x', '-y']" in same("-c", PROBE, "x", "-y").stdout


@pytest.mark.parametrize("arguments", [["-"], ["-", "a", "b"], []])
def test_standard_input(arguments):
    assert "__main__" in same(*arguments, input=PROBE).stdout


def test_folders_and_zip_files(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(PROBE + "import inside\n")
    (tmp_path / "app" / "inside.py").write_text("print('inside')\n")
    assert same("app", "x", cwd=tmp_path).stdout.endswith("inside\n")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.write(tmp_path / "app" / "__main__.py", "__main__.py")
        archive.writestr("inside.py", "print('zipped')\n")
    assert same("app.zip", cwd=tmp_path).stdout.endswith("zipped\n")
    (tmp_path / "empty").mkdir()
    assert same("empty", cwd=tmp_path).returncode == 1


ENDINGS = {
    "falls off": "pass",
    "status": "import sys; sys.exit(7)",
    "text": "import sys; sys.exit('a message')",
    "exception": "def f():\n    1/0\nf()",
    "chained": "try:\n    1/0\nexcept ZeroDivisionError as error:\n    raise ValueError('x') from error",
    "syntax": "x = = 1",
    "interrupt": "raise KeyboardInterrupt",
    "hook": "import sys\nsys.excepthook = lambda *a: print('hooked', a[0].__name__, a[2].tb_frame.f_code.co_name)\n1/0",
    "atexit": "import atexit; atexit.register(print, 'at exit'); 1/0",
    "thread": "import threading; threading.Timer(0.01, print, ['thread']).start(); 1/0",
    "group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
    "loop left open": "import asyncio\nasyncio.set_event_loop(asyncio.new_event_loop())",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_endings(ending, tmp_path):
    (tmp_path / "program.py").write_text(ENDINGS[ending] + "\n")
    result = same("program.py", cwd=tmp_path)
    assert result.returncode == {
        "falls off": 0, "loop left open": 0, "status": 7, "interrupt": -signal.SIGINT, "killed": -signal.SIGTERM
    }.get(ending, 1)  # fmt: skip
    same("-c", ENDINGS[ending])


def test_a_traceback_from_a_module(tmp_path):
    (tmp_path / "broken.py").write_text("def f():\n    1/0\nf()\n")
    assert "ZeroDivisionError" in same("-m", "broken", cwd=tmp_path).stderr


def test_what_cannot_be_run(tmp_path):
    assert "can't open file" in same("missing.py", cwd=tmp_path).stderr
    assert "No module named missing" in same("-m", "missing", cwd=tmp_path).stderr
    (tmp_path / "image.py").write_bytes(b"\x89PNG\0")
    assert "image.py" in rondel("image.py", cwd=tmp_path).stderr


def test_a_compiled_file(tmp_path):
    import py_compile

    (tmp_path / "program.py").write_text("print('compiled', __file__)\n")
    py_compile.compile(str(tmp_path / "program.py"), str(tmp_path / "program.pyc"))
    assert "compiled" in same("program.pyc", cwd=tmp_path).stdout


def test_main_can_be_pickled_and_spawned(tmp_path):
    (tmp_path / "program.py").write_text(
        "import multiprocessing, pickle\n"
        "class Thing:\n"
        "    def __init__(self, n): self.n = n\n"
        "def work(thing): return Thing(thing.n + 1)\n"
        "if __name__ == '__main__':\n"
        "    print(type(pickle.loads(pickle.dumps(Thing(1)))) is Thing)\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(work, [Thing(1)])[0].n)\n"
    )
    assert same("program.py", cwd=tmp_path).stdout == "True\n2\n"
    assert same("-m", "program", cwd=tmp_path).stdout == "True\n2\n"


def rondel(*arguments, **options):
    return run(*arguments, command=[sys.executable, "-m", "rondel"], **options)


LOOP = "import asyncio\nasync def main():\n    return asyncio.get_running_loop()\nloop = asyncio.run(main())\n"


def test_the_program_runs_on_rondel():
    assert rondel("-c", LOOP + "print(type(loop).__module__.partition('.')[0])").stdout == "rondel\n"


def test_debug():
    program = LOOP + "print(loop.get_debug())"
    assert rondel("-c", program).stdout == "False\n"
    assert rondel("--debug", "-c", program).stdout == "True\n"


CREATED = """
import asyncio, gc

async def fails():
    raise ValueError("nobody looks at this")

def fails_too():
    raise ValueError

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: stacks.append(context["source_traceback"]))
    asyncio.create_task(fails())
    loop.create_future().set_exception(ValueError("nor at this"))
    loop.call_soon(fails_too)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()

stacks = []
asyncio.run(main())
print(len(stacks))
for stack in stacks:
    print(stack[0].filename, stack[0].name, *(frame.name for frame in stack if "command" in frame.filename))
"""


def test_where_something_was_created_begins_in_the_program(tmp_path):
    (tmp_path / "program.py").write_text(CREATED)
    expected = "3\n" + f"{tmp_path}/program.py <module>\n" * 3
    for command in ([sys.executable, "-X", "dev"], [sys.executable, "-m", "rondel", "--debug"]):
        result = run("program.py", cwd=tmp_path, command=command)
        assert (result.stdout, result.stderr) == (expected, "")


def test_version_and_help():
    import rondel as package

    version = rondel("--version")
    assert version.stdout == f"rondel {package.__version__} (Python {sys.version.split()[0]})\n"
    text = rondel("--help")
    assert text.returncode == 0
    assert text.stdout.startswith("usage: rondel [--debug] [-m MODULE | -c CODE | FILE | -] [ARGUMENT ...]\n")


@pytest.mark.parametrize("arguments", [["-x"], ["--nonsense"], ["-m"], ["-c"]])
def test_wrong_options(arguments):
    result = rondel(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("rondel: ")
    assert "usage: rondel" in result.stderr


def test_ctrl_c(tmp_path):
    (tmp_path / "program.py").write_text(
        "import asyncio\n"
        "async def main():\n"
        "    print('ready', flush=True)\n"
        "    try:\n"
        "        await asyncio.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "rondel", "program.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out == "cleaned up\n"
    assert process.returncode == -signal.SIGINT
    assert err.endswith("KeyboardInterrupt\n")
    assert "command.py" not in err


PS_PROGRAM = """
import asyncio, sys

async def child():
    await asyncio.Event().wait()

async def main():
    task = asyncio.create_task(child(), name="the child")
    await asyncio.sleep(0)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in 3.14")
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_looking_into_a_process(command):
    program = [sys.executable, "-m", "rondel", "-c", PS_PROGRAM]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        oracle = run("-m", "asyncio", command, str(process.pid))
        ours = rondel(command, str(process.pid))
        process.stdin.close()
        assert process.wait(30) == 0
    if "ermission" in oracle.stderr:
        pytest.skip("this machine lets no process look into another")
    assert (ours.stdout, ours.stderr, ours.returncode) == (oracle.stdout, oracle.stderr, 0)
    assert "the child" in ours.stdout


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in 3.14")
def test_looking_into_no_process():
    oracle, ours = run("-m", "asyncio", "ps", "x"), rondel("ps", "x")
    assert (ours.stdout, ours.stderr, ours.returncode) == (oracle.stdout, oracle.stderr, 2)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="3.14 has it")
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_looking_into_a_process_before_3_14(command):
    result = rondel(command, "1")
    assert result.returncode == 2
    assert result.stderr.startswith(f"rondel: {command} needs Python 3.14 or newer, and this is 3.1")


def test_a_file_that_has_the_name_of_a_command(tmp_path):
    (tmp_path / "ps").write_text("print('the file')\n")
    assert rondel("./ps", cwd=tmp_path).stdout == "the file\n"


def test_the_interpreters_own_options(tmp_path):
    """Interpreter options come before `-m rondel`, and the program sees them."""
    (tmp_path / "program.py").write_text("import sys; print(sys.flags, sys.path[0]); x = 5\n")
    for options in (["-X", "dev"], ["-O"], ["-P"], ["-I"], ["-W", "error", "-B"]):
        if "-I" in options and "site-packages" not in installed_in():
            continue  # rondel comes from PYTHONPATH here, which -I ignores
        oracle = run(*options, "program.py", cwd=tmp_path)
        ours = run(*options, "-m", "rondel", "program.py", cwd=tmp_path)
        assert (ours.stdout, ours.stderr, ours.returncode) == (oracle.stdout, oracle.stderr, 0)
    inspected = run("-i", "-m", "rondel", "program.py", cwd=tmp_path, input="print('x is', x)\n")
    assert "x is 5" in inspected.stdout


def installed_in():
    import rondel as package

    return package.__file__


CHILDREN = """
import asyncio
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def kind(_=None):
    async def main():
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return asyncio.run(main())

def grandchild():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(kind).result()

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        print(pool.submit(kind).result(), pool.submit(grandchild).result())
"""


@pytest.mark.parametrize("command", ["python", "rondel"])
def test_processes_that_are_started_afresh_run_on_it_too(tmp_path, command):
    file = tmp_path / "program.py"
    file.write_text(CHILDREN)
    options = ["-m", "rondel"] if command == "rondel" else []
    done = subprocess.run([sys.executable, *options, file], capture_output=True, text=True, check=False)
    expected = "rondel" if command == "rondel" else "asyncio"
    assert done.stdout.split() == [expected] * 2, done.stderr
