"""The notebooks of the documentation: they run from top to bottom, and are committed with small outputs.

After a change: `jupyter execute --inplace docs/notebooks/NAME.ipynb` (nbclient), and remove what is on stderr.
"""

import ast
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
MAX_BYTES = 500_000
INTERNAL = {"agent", "cli", "common", "eval", "hmr", "memory", "rl"}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def code_of(path: Path) -> list[NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_is_a_notebook():
    assert NOTEBOOKS


def test_it_is_small_and_was_committed_after_a_whole_run(path: Path):
    nbformat.validate(nbformat.read(path, as_version=4))
    assert path.stat().st_size < MAX_BYTES
    cells = code_of(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert "error" not in {output.output_type for output in outputs}
    assert "stderr" not in {output.get("name") for output in outputs}
    shown = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "/root" not in shown
    assert "Traceback" not in shown


def test_it_imports_public_names_only(path: Path):
    lines = [line for cell in code_of(path) for line in cell.source.splitlines() if not line.startswith("!")]
    nodes = list(ast.walk(ast.parse("\n".join(lines))))
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    modules |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert "meshcritic" in modules
    assert not {module.split(".")[0] for module in modules} & INTERNAL


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a kernel of its own, on this checkout; every cell shows what it showed when the notebook was committed."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=folder).execute()
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [kinds(cell) for cell in ran] == [kinds(cell) for cell in code_of(path)]


def kinds(cell: NotebookNode) -> set[str]:
    """What a cell shows, without the progress bars on stderr."""
    return {output.output_type for output in cell.outputs if output.get("name") != "stderr"}
