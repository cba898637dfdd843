"""Colab: a badge, a first cell that installs what is missing, and form fields, written into the notebooks by script.

`nibkit badges` applies `prepare` to every notebook; the address comes from pyproject.toml.
"""

import copy
import re
from pathlib import Path

import nbformat

# The first code cell of every notebook. nibkit's bounds are low: pip adds what is missing and leaves Colab's torch
# alone. SystemExit is what a notebook shows without a traceback.
INSTALL = """\
# @title Install nibkit where it is missing (Colab, this file alone)
import os
import subprocess
import sys
from importlib.util import find_spec

if not find_spec("nibkit"):
    source = os.environ.get("NIBKIT_SOURCE", "git+https://github.com/OWNER/REPO")
    if subprocess.call([sys.executable, "-m", "pip", "install", "-q", source]):
        raise SystemExit(
            f"nibkit could not be installed from {source}. Without network, set the environment variable NIBKIT_SOURCE "
            "to the path of a clone or a wheel of nibkit, and run this cell again."
        )"""

BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name})"
)
OLD_BADGE = re.compile(r"^\[!\[Open in Colab\]\(\S+?\)\]\((\S+?)\)$", re.MULTILINE)
ADDRESS = re.compile(r'^repository = "https://github\.com/([\w.-]+/[\w.-]+)"$', re.MULTILINE)
FIELDS = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "list": "raw"}
PARAMETER = re.compile(r"^(\w+: (\w+) = .*?)(?:  # (?!@param)(.*))?$", re.MULTILINE)


def repository(pyproject: Path) -> str:
    """OWNER/REPO of the address in pyproject.toml; ValueError where there is none on GitHub."""
    found = ADDRESS.search(pyproject.read_text(encoding="utf-8"))
    if not found:
        raise ValueError(
            f'{pyproject} has no line repository = "https://github.com/OWNER/REPO" in [project.urls]; add it'
        )
    return found[1]


def move(root: Path, owner_repo: str) -> None:
    """Write OWNER/REPO, or its whole address, into the files of a checkout that name it, pyproject.toml the first."""
    old = repository(root / "pyproject.toml")
    found = re.fullmatch(r"(?:https://github\.com/|git@github\.com:)?([\w.-]+/[\w.-]+?)(?:\.git)?/?", owner_repo)
    if not found:
        raise ValueError(f"{owner_repo!r} is not OWNER/REPO on GitHub, such as {old}")
    for name in ("pyproject.toml", "CITATION.cff", "README.md"):
        text = (root / name).read_text(encoding="utf-8")
        text = re.sub(rf"(github\.com/|/github/){re.escape(old)}\b", rf"\g<1>{found[1]}", text)
        (root / name).write_text(text, encoding="utf-8")


def _field(match: re.Match) -> str:
    """One line of the parameters cell as a form field; papermill reads type, value and help from the same line."""
    line, kind, text = match.groups()
    if "  # @param" in line or kind not in FIELDS:  # a field already, perhaps a list of choices written by hand
        return match[0]
    return f'{line}  # @param {{type:"{FIELDS[kind]}"}}' + (f" # {text}" if text else "")


def prepare(nb: nbformat.NotebookNode, name: str, owner_repo: str) -> nbformat.NotebookNode:
    """A copy of the notebook `name` that opens in Colab: badge below the title, `INSTALL` first, parameters as a form.

    Nothing else changes, outputs included; the execution counts of an executed notebook stay 1..N. Applying it twice
    changes nothing more. ValueError where the notebook does not open with a markdown title.
    """
    nb = copy.deepcopy(nb)
    first = nb.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        raise ValueError(f"{name} does not open with a markdown cell whose first line is a title: # 01 · ...")
    title, *text = OLD_BADGE.sub("", first.source).split("\n", 1)
    badge = BADGE.format(repository=owner_repo, name=name)
    first.source = "\n\n".join(filter(None, [title, badge, "".join(text).strip()]))

    nb.cells = [cell for cell in nb.cells if cell.get("id") != "colab"]
    executed = all(cell.execution_count for cell in nb.cells if cell.cell_type == "code")
    nb.cells.insert(1, nbformat.v4.new_code_cell(INSTALL.replace("OWNER/REPO", owner_repo), id="colab"))
    for cell in nb.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = PARAMETER.sub(_field, cell.source)
    for count, cell in enumerate([cell for cell in nb.cells if cell.cell_type == "code"], 1):
        cell.execution_count = count if executed else cell.execution_count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    return nb
