"""Every notebook runs from top to bottom and is committed with what it then shows.

`python -m tests.test_notebooks` executes them all and stores their outputs.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LARGEST = 400_000  # bytes of a file

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@cache
def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook run anew in its folder; a cell that fails raises."""
    notebook = stored(path)
    client = NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    return notebook


def stored(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tables(notebook: nbformat.NotebookNode) -> list[str]:
    """What the results of its cells are as text: tables, not pictures."""
    results = [output for cell in code_cells(notebook) for output in cell.outputs if output.output_type == "execute_result"]
    return [output.data["text/plain"] for output in results]


def store(path: Path) -> None:
    """Execute a notebook and write it with its outputs, without progress bars and warnings."""
    notebook = executed(path)
    for cell in code_cells(notebook):
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 4


@every
def test_committed_notebook_has_outputs(path):
    assert sum(bool(cell.outputs) for cell in code_cells(stored(path))) >= 3


@every
def test_committed_notebook_has_neither_errors_nor_warnings(path):
    outputs = [output for cell in code_cells(stored(path)) for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []


@every
def test_committed_notebook_was_run_in_order(path):
    counts = [cell.execution_count for cell in code_cells(stored(path))]
    assert counts == list(range(1, len(counts) + 1))


@every
def test_committed_notebook_is_light(path):
    assert path.stat().st_size < LARGEST


@pytest.mark.slow
@every
def test_notebook_runs_and_shows_the_committed_tables(path):
    """So a notebook is not left behind by newer results. Pictures may differ between processors."""
    assert tables(executed(path)) == tables(stored(path))


if __name__ == "__main__":
    for notebook_path in NOTEBOOKS:
        store(notebook_path)
        print(f"{notebook_path.name}: {notebook_path.stat().st_size} bytes")
