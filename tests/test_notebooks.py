"""The committed notebooks are fit to be read, run and regenerated."""

from pathlib import Path

import nbformat
import pytest

from nibkit import reports

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_every_parameter_can_be_read_and_every_run_planned():
    runs = reports.plan(FOLDER)
    assert {run.notebook for run in runs} == set(NOTEBOOKS)
    assert {"03_benchmark-scenes-objects", "03_benchmark-scenes-captions"} <= {run.name for run in runs}
    assert all("out" in run.settings for run in runs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_hygiene(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "not executed 1..N: make notebooks"
    assert not {"widgets", "papermill"} & notebook.metadata.keys()
    assert reports.clean(notebook) == notebook, "traces of one execution: make notebooks"
    assert max(len(cell.source.splitlines()) for cell in code) <= 25
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert any(cell.source.startswith("# NBVAL_CHECK_OUTPUT") for cell in code)
    if not path.stem.startswith("01"):
        assert not any(line.startswith("def ") for cell in code for line in cell.source.splitlines())
