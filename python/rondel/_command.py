"""The command line, `rondel` and `python -m rondel`: runs programs like `python`, on Rondel.

The program gets its own `__main__` module, `sys.argv` and `sys.path[0]`, as the interpreter sets
them. An exception of the program goes on to the interpreter, which prints it and chooses the exit
status (for Ctrl-C the process ends by SIGINT, status 130). This module only hides its own frames:
from `sys.excepthook`, and from the creation tracebacks of debug mode.
"""

import builtins
import importlib.machinery
import io
import os
import pkgutil
import runpy
import sys
from asyncio import format_helpers
from traceback import StackSummary
from types import CodeType, FrameType, ModuleType, TracebackType

from . import __version__, _install, _spawn

_USAGE = """\
usage: rondel [--debug] [-m MODULE | -c CODE | FILE | -] [ARGUMENT ...]
       rondel ps | pstree PID
"""

_HELP = f"""\
{_USAGE}
Run a Python program with Rondel in the place of asyncio, also in the processes that it starts by multiprocessing.

  FILE         run a script, or a directory or zip file that holds a __main__.py
  -m MODULE    run a module or package as a script
  -c CODE      run a program given as text
  -            run a program read from standard input
  ps PID       list the tasks of a running process, and who awaits them (from Python 3.14 on)
  pstree PID   the same as a tree
  --debug      run it in asyncio's debug mode
  --version    print the version and exit
  --help       print this and exit

Without a program, and with a terminal to read from, asyncio's interactive console (await at top level) is started.
The same as: python -m rondel ...
"""

# Commands of `python -m asyncio` from 3.14 on. A file with such a name is run as ./ps.
_INSPECT_COMMANDS = ("ps", "pstree")

_original_main: list[ModuleType] = []


def main() -> None:
    """Run the program that `sys.argv` names, and exit as that program exits."""
    arguments = sys.argv[1:]
    while arguments:
        option = arguments[0]
        if option == "-" or not option.startswith("-"):
            break
        del arguments[0]
        if option in ("-h", "--help"):
            print(_HELP, end="")
            return
        if option in ("-V", "--version"):
            print(f"rondel {__version__} (Python {sys.version.split()[0]})")
            return
        if option == "--debug":
            # asyncio reads it when a loop is created, in this process and in child processes.
            os.environ["PYTHONASYNCIODEBUG"] = "1"
            continue
        if option == "--":
            break
        if option[:2] in ("-m", "-c"):
            if option[2:]:
                arguments.insert(0, option[2:])
            if not arguments:
                _exit_with_usage(f"argument expected for the {option} option")
            _start(option[:2], arguments)
            return
        _exit_with_usage(f"unknown option {option}")
    if not arguments:
        _start("console" if sys.stdin is not None and sys.stdin.isatty() else "-", [""])
    elif arguments[0] in _INSPECT_COMMANDS:
        if sys.version_info < (3, 14):
            _exit_with_usage(f"{arguments[0]} needs Python 3.14 or newer, and this is {sys.version.split()[0]}")
        _start("asyncio", arguments)
    else:
        _start("file" if arguments[0] != "-" else "-", arguments)


def _exit_with_usage(message: str) -> None:
    print(f"rondel: {message}\n{_USAGE}", end="", file=sys.stderr)
    sys.exit(2)


def _start(kind: str, arguments: list[str]) -> None:
    """Install Rondel and run one program.

    `arguments` follow the options; the first is the program.
    """
    _install.install()
    _spawn.install_in_children()
    _hide_our_frames_in_debug_mode()
    program = ModuleType("__main__")
    vars(program).update(__builtins__=builtins, __loader__=importlib.machinery.BuiltinImporter)
    if sys.version_info < (3, 14):
        program.__annotations__ = {}
    # When a script fails, CPython releases the original main module, then still clears names in it.
    _original_main.append(sys.modules["__main__"])
    sys.modules["__main__"] = program
    try:
        if kind == "-m":
            _run_module(arguments[0], arguments[1:])
        elif kind == "-c":
            _set_program(["-c", *arguments[1:]], "")
            source = arguments[0] + "\n"
            _show_source_of("<string>", source)
            exec(compile(source, "<string>", "exec", dont_inherit=True), vars(program))
        elif kind == "-":
            _set_program(arguments, "")
            program.__file__ = "<stdin>"
            _set_cached(program)
            source_bytes = sys.stdin.buffer.read() if sys.stdin is not None else b""
            exec(compile(source_bytes, "<stdin>", "exec", dont_inherit=True), vars(program))
        elif kind == "asyncio":
            _run_module("asyncio", arguments)
        elif kind == "console":
            if not sys.flags.quiet:
                print(f"Rondel {__version__}: asyncio's names are Rondel's here.", file=sys.stderr, flush=True)
            # The running version's console. It runs on a Rondel loop, as asyncio now creates these.
            _run_module("asyncio", [])
        else:
            _run_file(program, arguments)
    except SystemExit:
        raise
    except BaseException as error:
        _hide_our_frames(error)
        raise


def _set_program(argv: list[str], directory: str) -> None:
    sys.argv[:] = argv
    if not sys.flags.safe_path:
        # It was the directory of the command, or for `python -m rondel` the current directory.
        sys.path[0] = directory


def _run_module(name: str, arguments: list[str]) -> None:
    _set_program(["-m", *arguments], os.getcwd())
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]  # what `python -m` calls


def _run_file(program: ModuleType, arguments: list[str]) -> None:
    # Like the interpreter. Not abspath(), which may turn `link/../app.py` into another file.
    path = os.path.join(os.getcwd(), arguments[0])
    if pkgutil.get_importer(path) is not None:
        # A directory or a zip file. The interpreter puts it at the start of sys.path, even with -P.
        sys.argv[:] = arguments
        if sys.flags.safe_path:
            sys.path.insert(0, path)
        else:
            sys.path[0] = path
        runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
        return
    try:
        code = _read_program(path)
    except OSError as error:
        print(
            f"{sys.orig_argv[0]}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}",
            file=sys.stderr,
        )
        sys.exit(2)
    _set_program(arguments, os.path.dirname(os.path.realpath(path)))
    vars(program).update(
        __file__=path,
        __loader__=importlib.machinery.SourceFileLoader("__main__", path),
    )
    _set_cached(program)
    exec(code, vars(program))


def _set_cached(program: ModuleType) -> None:
    if sys.version_info < (3, 15):
        vars(program)["__cached__"] = None


def _read_program(path: str) -> CodeType:
    if path.endswith(".pyc"):
        with io.open_code(path) as file:
            code: CodeType | None = pkgutil.read_code(file)
        if code is not None:
            return code
    with io.open_code(path) as file:
        source = file.read()
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        # A file with null bytes: the error has no line to show and no file name.
        error.filename = error.filename or path
        raise


def _show_source_of(filename: str, source: str) -> None:
    """Show the lines of a -c program in tracebacks, as the interpreter does from 3.13 on."""
    if sys.version_info >= (3, 13):
        import linecache

        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)


def _hide_our_frames_in_debug_mode() -> None:
    """Make the stacks that asyncio keeps in debug mode start with the program's first frame."""
    stock = format_helpers.extract_stack

    def extract_stack(f: FrameType | None = None, limit: int | None = None) -> StackSummary:
        stack = stock(sys._getframe(1) if f is None else f, limit)
        ours = [place for place, frame in enumerate(stack) if frame.filename == __file__]
        del stack[: ours[-1] + 1 if ours else 0]
        return stack

    format_helpers.extract_stack = extract_stack


def _hide_our_frames(error: BaseException) -> None:
    """Make the traceback that will be printed start with the program's first frame."""
    program_hook = sys.excepthook
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next

    def show(kind: type[BaseException], value: BaseException, _all: TracebackType | None) -> None:
        sys.excepthook = program_hook
        sys.last_traceback = value.__traceback__ = traceback
        program_hook(kind, value, traceback)

    sys.excepthook = show
