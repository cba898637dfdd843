"""The committed notebooks are fit to be read, run, compared and regenerated."""

import ast
import configparser
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from nibkit.reports.clean import clean
from nibkit.reports.parameters import plan

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_every_parameter_can_be_read_and_every_run_planned():
    runs = plan(FOLDER)
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
    assert clean(notebook) == notebook, "traces of one execution: make notebooks"
    assert max(len(cell.source.splitlines()) for cell in code) <= 25
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert any(cell.source.startswith("# NBVAL_CHECK_OUTPUT") for cell in code)
    nodes = [node for cell in code if cell.id != "colab" for node in ast.walk(ast.parse(cell.source))]
    assert not any(isinstance(node, ast.ClassDef) for node in nodes)
    assert all(node.end_lineno - node.lineno < 12 for node in nodes if isinstance(node, ast.FunctionDef)), (
        "a def over 12 lines"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_with_its_question_method_and_answer(path):
    opening = nbformat.read(path, as_version=4).cells[0].source
    assert re.findall(r"^\*\*(\w+)\.\*\* ", opening, re.MULTILINE) == ["Question", "Method", "Answer"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_differences_between_versions_are_those_of_the_content(path):
    notebook = nbformat.read(path, as_version=4)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    text = path.read_text(encoding="utf-8")  # one layout: nbformat's, keys sorted, a line per source line
    assert text == nbformat.writes(notebook) + "\n", "written by another program: make notebooks"


def test_nbval_finds_a_wrong_number_in_a_table(tmp_path):
    """The command of `make test` fails the one cell of a notebook in whose output one digit was changed."""
    notebook = nbformat.read(FOLDER / "00_index.ipynb", as_version=4)
    (checked,) = [cell for cell in notebook.cells if cell.source.startswith("# NBVAL_CHECK_OUTPUT")]
    table = checked.outputs[0].text
    last = list(re.finditer(r"\d\.\d+", table))[-1]
    checked.outputs[0].text = table[: last.end() - 1] + str((int(last[0][-1]) + 1) % 10) + table[last.end() :]
    nbformat.write(notebook, tmp_path / "planted.ipynb")
    command = re.search(r"-m pytest (.*--nbval.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))[1].split()
    command = [
        {"notebooks": str(tmp_path), "notebooks/sanitize.cfg": str(FOLDER / "sanitize.cfg")}.get(c, c) for c in command
    ]
    command += ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-n", "0"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MPLBACKEND"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command],
        cwd=tmp_path,
        env=variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1, done.stdout
    number = [cell.id for cell in notebook.cells if cell.cell_type == "code"].index(checked.id)  # as nbval counts
    assert re.findall(r"^FAILED (.*?) - ", done.stdout, re.MULTILINE) == [f"planted.ipynb::Cell {number}"], done.stdout


@pytest.mark.parametrize(
    "text, left",
    [
        ("made 2026-11-21 at 14:20:59 on cuda:0", "made DATE at TIME on DEVICE"),
        ("2026-11-21T14:20:59+00:00", "DATE"),
        ("/home/me/nibkit/reports/a.csv", "PATH"),
        (
            "<Styler at 0x7f1a2b3c>; #T_709a3_row0_col1 { width: 3em }",
            "<Styler at ADDRESS>; #TABLE_row0_col1 { width: 3em }",
        ),
        ("nib 1.30 60.4 -0.25 3e-5 16/96 12 %", "nib 1.30 60.4 -0.25 3e-5 16/96 12 %"),
    ],
)
def test_the_sanitiser_takes_dates_paths_and_devices_and_leaves_numbers(text, left):
    rules = configparser.RawConfigParser()
    rules.read(FOLDER / "sanitize.cfg")
    for section in rules.sections():
        text = re.sub(rules[section]["regex"], rules[section]["replace"], text)
    assert text == left


@pytest.mark.parametrize(
    ("ours", "other", "same"),
    [
        ("gap 0.06 %", "gap 0.07 %", True),
        ("gap 0.06 %", "gap 0.08 %", False),
        ("<td>1e-07</td>", "<td>8e-08</td>", True),
        ("<td>1e-07</td>", "<td>8e-07</td>", False),
        ("-0.00 and 1.00", "0.01 and 1.000", True),
        ("64 pairs", "65 pairs", False),
        ("nib 0.5", "gae 0.5", False),
        ("0.5 0.5", "0.5", False),
    ],
)
def test_outputs_agree_but_for_a_unit_of_the_last_digit(ours, other, same):
    spec = importlib.util.spec_from_file_location("notebooks_conftest", FOLDER / "conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    assert (conftest.Shown(ours) == conftest.Shown(other)) is same
    assert (conftest.Shown(ours) != conftest.Shown(other)) is not same
