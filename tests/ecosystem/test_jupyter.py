"""IPython and Jupyter: `await` in a terminal, and a kernel on Rondel's loop."""

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient
from processes import RONDEL

CELLS = (
    "import asyncio, rondel\nprint(isinstance(asyncio.get_running_loop(), rondel.EventLoop))",
    "async def double(x):\n    await asyncio.sleep(0.001)\n    return 2 * x\nprint(await asyncio.gather(*map(double, range(5))))",
    "task = asyncio.create_task(double(21))\nprint(task.done())",
    "print(await task)",
    "print(await (await asyncio.create_subprocess_exec('true')).wait())",
    "await asyncio.wait_for(asyncio.sleep(10), 0.01)",
)


def test_a_kernel(tmp_path):
    """The command line of a kernel specification, with `-m rondel`."""
    manager = KernelManager()
    manager.kernel_spec.argv = [*RONDEL, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    client = NotebookClient(
        notebook, km=manager, timeout=50, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [cell.outputs[0] for cell in notebook.cells]
    assert [output.get("text") for output in outputs[:-1]] == ["True\n", "[0, 2, 4, 6, 8]\n", "False\n", "42\n", "0\n"]
    assert outputs[-1]["ename"] == "TimeoutError"


@pytest.mark.parametrize("magic", ["", "%autoawait asyncio\n"], ids=["default", "autoawait"])
def test_a_terminal(programs, tmp_path, magic):
    script = tmp_path / "lines.ipy"
    script.write_text(
        f"{magic}import asyncio\nprint(type(asyncio.get_running_loop()))\nprint(await asyncio.sleep(0.01, 'slept'))\n"
    )
    program = programs.start(
        *RONDEL, "-m", "IPython", "--no-banner", "--quick", script, folder=tmp_path, IPYTHONDIR=str(tmp_path)
    )
    assert program.wait() == 0, program.output
    assert "<class 'rondel._event_loop.EventLoop'>" in program.output
    assert "slept" in program.output
