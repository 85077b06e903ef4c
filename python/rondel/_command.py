"""The command line, `rondel` and `python -m rondel`: a program run as `python` runs it, with Rondel installed.

The program gets a `__main__` module, `sys.argv` and `sys.path[0]` of its own, as from the interpreter. When it
raises, the exception goes on to the interpreter, which prints it and chooses the exit status (130 by signal for
Ctrl-C, for one); all that is done here is to hide this module's frames from `sys.excepthook`, and from what debug mode
tells of where something was created.
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

# Asyncio's own command has them, from 3.14 on. A file of that name is run as ./ps.
_INSPECTIONS = ("ps", "pstree")

_started_by: list[ModuleType] = []


def main() -> None:
    """Run the program that `sys.argv` asks for; exits as that program exits."""
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
            # asyncio reads it when a loop is made, in this process and in those the program starts.
            os.environ["PYTHONASYNCIODEBUG"] = "1"
            continue
        if option == "--":
            break
        if option[:2] in ("-m", "-c"):
            if option[2:]:
                arguments.insert(0, option[2:])
            if not arguments:
                _refuse(f"argument expected for the {option} option")
            _start(option[:2], arguments)
            return
        _refuse(f"unknown option {option}")
    if not arguments:
        _start("console" if sys.stdin is not None and sys.stdin.isatty() else "-", [""])
    elif arguments[0] in _INSPECTIONS:
        if sys.version_info < (3, 14):
            _refuse(f"{arguments[0]} needs Python 3.14 or newer, and this is {sys.version.split()[0]}")
        _start("asyncio", arguments)
    else:
        _start("file" if arguments[0] != "-" else "-", arguments)


def _refuse(message: str) -> None:
    print(f"rondel: {message}\n{_USAGE}", end="", file=sys.stderr)
    sys.exit(2)


def _start(kind: str, arguments: list[str]) -> None:
    """Install Rondel and run one program: `arguments` is what stands after the options, the program first."""
    _install.install()
    _spawn.install_in_children()
    _hide_our_frames_in_debug_mode()
    program = ModuleType("__main__")
    vars(program).update(__builtins__=builtins, __loader__=importlib.machinery.BuiltinImporter)
    if sys.version_info < (3, 14):
        program.__annotations__ = {}
    # When a script fails, CPython releases the module it began with and then still clears names in it.
    _started_by.append(sys.modules["__main__"])
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
            # The running version's own console: its loop is Rondel's, since that is what asyncio makes now.
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
        # What stands there is the directory of the command, or the current one for `python -m rondel`.
        sys.path[0] = directory


def _run_module(name: str, arguments: list[str]) -> None:
    _set_program(["-m", *arguments], os.getcwd())
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]  # what the interpreter's own -m calls


def _run_file(program: ModuleType, arguments: list[str]) -> None:
    # As the interpreter does it. What abspath() makes of `link/../app.py` may be another file.
    path = os.path.join(os.getcwd(), arguments[0])
    if pkgutil.get_importer(path) is not None:
        # A directory or a zip file: the interpreter searches it first, even with -P.
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
        # A file with null bytes has no line that could be shown; which file it is should be.
        error.filename = error.filename or path
        raise


def _show_source_of(filename: str, source: str) -> None:
    """From 3.13 on, the interpreter shows the lines of a -c program in its tracebacks."""
    if sys.version_info >= (3, 13):
        import linecache

        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)


def _hide_our_frames_in_debug_mode() -> None:
    """Have the stacks that asyncio keeps in debug mode begin with the program's first frame."""
    stock = format_helpers.extract_stack

    def extract_stack(f: FrameType | None = None, limit: int | None = None) -> StackSummary:
        stack = stock(sys._getframe(1) if f is None else f, limit)
        ours = [place for place, frame in enumerate(stack) if frame.filename == __file__]
        del stack[: ours[-1] + 1 if ours else 0]
        return stack

    format_helpers.extract_stack = extract_stack


def _hide_our_frames(error: BaseException) -> None:
    """Have the traceback that the interpreter is about to print begin with the program's first frame."""
    program_hook = sys.excepthook
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next

    def show(kind: type[BaseException], value: BaseException, _all: TracebackType | None) -> None:
        sys.excepthook = program_hook
        sys.last_traceback = value.__traceback__ = traceback
        program_hook(kind, value, traceback)

    sys.excepthook = show
