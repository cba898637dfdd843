"""Notebooks without traces of one execution, and what they say of themselves."""

import copy
import hashlib
import re
from pathlib import Path

import nbconvert
import nbformat

TABLE = re.compile(r"\bT_[0-9a-f]{5}(?![0-9a-f])")  # pandas' name for a styled table


def clean(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy of a notebook fit to be kept: sources, outputs, execution counts and ids, without traces of one execution.

    Gone: widget state and views, papermill and execution stamps, all tags but `parameters`, versions of the
    interpreter, stderr (progress bars, warnings), addresses in memory. Printed text becomes one stream, pandas' styled
    tables are numbered in place of their random names. Cleaning twice changes nothing more.
    """
    nb, tables = copy.deepcopy(nb), {}
    nb.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    nb.nbformat_minor = max(nb.nbformat_minor, 5)  # 4.5 is the first with cell ids
    for position, cell in enumerate(nb.cells):
        tags = {"tags": ["parameters"]} if "parameters" in cell.metadata.get("tags", []) else {}
        cell.metadata = nbformat.from_dict(tags)
        cell.setdefault("id", hashlib.sha256(f"{position} {cell.source}".encode()).hexdigest()[:8])
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if output.get("name") != "stderr"
                and "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            ]
            for data in (output.data for output in cell.outputs if "data" in output):
                for kind in {"text/plain", "text/html"} & data.keys():
                    text = re.sub(r" at 0x[0-9a-f]+", " at 0x0", data[kind])
                    data[kind] = TABLE.sub(lambda name: tables.setdefault(name[0], f"T_{len(tables):05x}"), text)
    return nbconvert.preprocessors.CoalesceStreamsPreprocessor().preprocess(nb, {})[0]


def failure(nb: nbformat.NotebookNode) -> str | None:
    """The cell that raised and what it raised; cells are counted from 1 and as in the notebook's source."""
    added = {"papermill-error-cell-tag", "injected-parameters"}
    cells = [cell for cell in nb.cells if not added & set(cell.metadata.get("tags", []))]
    for number, cell in enumerate(cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                first = cell.source.strip().splitlines()[0]
                return f"cell {number} of {len(cells)} (`{first}`): {output.ename}: {output.evalue}"
    return None


def title_and_question(notebook: Path) -> tuple[str, str]:
    """The first heading of a notebook and the first sentence after it that ends in "?", without their markup."""
    cells = nbformat.read(notebook, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"!\[.*?\]\(.*?\)", "", text)  # pictures, badges
    text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", text)  # links
    text = re.sub(r"[*`]+", "", text)
    heading = re.search(r"^#+\s+(.+)$", text, re.MULTILINE)
    rest = text[heading.end() :] if heading else text
    sentences = re.split(r"(?<=[!?:])\s+|(?<=\.)\s+(?=[A-Z])|\n\s*\n", rest)
    question = next((sentence for sentence in sentences if sentence.endswith("?")), "")
    return heading.group(1).strip() if heading else notebook.stem, " ".join(question.split())
