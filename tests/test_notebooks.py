"""The notebooks under examples/ run from the first cell to the last, and are kept without what they printed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
TITLES = [path.stem for path in NOTEBOOKS]


def test_there_are_notebooks() -> None:
    assert "own_file" in TITLES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=TITLES)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own modules
@pytest.mark.parametrize("path", NOTEBOOKS, ids=TITLES)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    folder = tmp_path / "examples"  # a copy: what a notebook writes beside itself is not the repository's
    shutil.copytree(EXAMPLES, folder)
    notebook = nbformat.read(folder / path.name, as_version=4)
    client(notebook, timeout=300, resources={"metadata": {"path": os.fspath(folder)}}).execute()
    printed = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stdout"
    ]
    assert printed, "The last cells print a front."
