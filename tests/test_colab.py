"""Notebooks open in Colab: badge, first cell, form fields."""

import shutil
import subprocess
from importlib import util
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nibkit.reports import colab
from nibkit.reports.clean import clean

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = """\
n: int = 3  # rows; 0: all
rate: float = 0.5
label: str = "x"  # @param ["x", "y"]
layers: list = [3, 9]  # blocks"""


def notebook(count: int | None = 1):
    output = new_output("execute_result", {"text/plain": "4"}, execution_count=count and count + 1)
    return new_notebook(
        cells=[
            new_markdown_cell("# 01 · Title\n\n**Question.** Why?", id="a"),
            new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}, execution_count=count, id="b"),
            new_code_cell("n + 1", execution_count=count and count + 1, outputs=[output], id="c"),
        ]
    )


def test_prepare_adds_badge_first_cell_and_fields_and_keeps_the_rest():
    nb = colab.prepare(notebook(), "01_x.ipynb", "some/fork")
    title, badge, question = nb.cells[0].source.split("\n\n")
    assert (title, question) == ("# 01 · Title", "**Question.** Why?")
    assert badge.endswith("(https://colab.research.google.com/github/some/fork/blob/main/notebooks/01_x.ipynb)")
    assert "git+https://github.com/some/fork" in nb.cells[1].source
    assert nb.cells[2].source == (
        'n: int = 3  # @param {type:"integer"} # rows; 0: all\n'
        'rate: float = 0.5  # @param {type:"number"}\n'
        'label: str = "x"  # @param ["x", "y"]\n'
        'layers: list = [3, 9]  # @param {type:"raw"} # blocks'
    )
    assert [cell.execution_count for cell in nb.cells[1:]] == [1, 2, 3]
    assert nb.cells[3].outputs[0].execution_count == 3 and nb.cells[3].outputs[0].data == {"text/plain": "4"}
    assert colab.prepare(nb, "01_x.ipynb", "some/fork") == nb


def test_prepare_for_another_address_leaves_nothing_of_the_first():
    there = colab.prepare(colab.prepare(notebook(), "01_x.ipynb", "some/fork"), "01_x.ipynb", "other/home")
    assert there.cells[0].source.count("colab-badge") == 1 and len(there.cells) == 4
    assert "some/fork" not in nbformat.writes(there)


def test_a_notebook_that_was_not_executed_gets_no_counts():
    nb = colab.prepare(notebook(None), "01_x.ipynb", "some/fork")
    assert [cell.execution_count for cell in nb.cells[1:]] == [None] * 3


def test_a_notebook_without_title_is_refused():
    with pytest.raises(ValueError, match="01_x.ipynb does not open with a markdown cell"):
        colab.prepare(new_notebook(cells=[new_code_cell("1")]), "01_x.ipynb", "some/fork")


def test_papermill_reads_type_default_and_help_from_a_form_field(tmp_path):
    nbformat.write(clean(colab.prepare(notebook(), "01_x.ipynb", "some/fork")), tmp_path / "01_x.ipynb")
    found = papermill.inspect_notebook(tmp_path / "01_x.ipynb")
    assert {name: (p["inferred_type_name"], p["default"]) for name, p in found.items()} == {
        "n": ("int", "3"), "rate": ("float", "0.5"), "label": ("str", '"x"'), "layers": ("list", "[3, 9]")
    }
    assert found["n"]["help"].endswith("# rows; 0: all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_prepared_for_the_address_in_pyproject(path):
    nb = nbformat.read(path, as_version=4)
    assert colab.prepare(nb, path.name, colab.repository(ROOT / "pyproject.toml")) == nb, "run: make badges"


def test_move_changes_the_address_everywhere_it_is_named(tmp_path):
    for name in ("pyproject.toml", "CITATION.cff", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    old = colab.repository(ROOT / "pyproject.toml")
    colab.move(tmp_path, "some/fork")
    assert colab.repository(tmp_path / "pyproject.toml") == "some/fork"
    assert not any(f"github.com/{old}" in file.read_text() for file in tmp_path.iterdir())
    with pytest.raises(ValueError, match="'fork' is not OWNER/REPO on GitHub, such as some/fork"):
        colab.move(tmp_path, "fork")
    for address in ("https://github.com/other/home.git", "https://github.com/other/home/", "git@github.com:other/home"):
        colab.move(tmp_path, address)
        assert colab.repository(tmp_path / "pyproject.toml") == "other/home"
        colab.move(tmp_path, "some/fork")


def test_the_first_cell_installs_nibkit_where_it_is_missing_or_says_from_where_it_could_not(monkeypatch):
    calls, status = [], 0
    monkeypatch.setattr(subprocess, "call", lambda command: calls.append(command[-1]) or status)
    code = colab.prepare(notebook(), "01_x.ipynb", "some/fork").cells[1].source
    exec(code, {})
    assert not calls
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    exec(code, {})
    monkeypatch.setenv("NIBKIT_SOURCE", "/media/nibkit.whl")
    exec(code, {})
    assert calls == ["git+https://github.com/some/fork", "/media/nibkit.whl"]
    monkeypatch.delenv("NIBKIT_SOURCE")
    status = 1
    with pytest.raises(SystemExit, match=r"not be installed from git\+https://github.com/some/fork. .*NIBKIT_SOURCE"):
        exec(code, {})


def test_make_takes_a_whole_address_and_leaves_the_environment_alone(tmp_path):
    """The rule `badges` as make reads it, beside a pyproject.toml that the command has just changed."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$@"; sleep 0.05; touch pyproject.toml\n')
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".venv/.stamp").touch()

    def make(*goals):
        return subprocess.run(["make", "-s", *goals], cwd=tmp_path, capture_output=True, encoding="utf-8")

    done = make("badges", "https://github.com/some/fork.git")
    assert (done.stdout, done.stderr) == ("-m nibkit badges https://github.com/some/fork.git\n", "")
    assert make("-q", ".venv/.stamp").returncode == 0
