"""Reports: the numbered notebooks, executed by papermill, as HTML pages beside their tables and figures.

`run_reports` executes every run of the report set (`RUNS`, or the same notebooks on the model and data of a `Subject`) in
its own OS process and skips what is still up to date;
`refresh` re-executes the committed notebooks in place; `clean` strips what must not be kept from either.

    reports/index.html       the overview            reports/RUN/*.csv, *.png   what the notebook saved under `out`
    reports/RUN.html         the executed notebook   reports/RUN/RUN.ipynb      the same, as a notebook
    reports/.state/RUN.json  hash of everything the run depends on, status, time
"""

import ast
import asyncio
import base64
import copy
import hashlib
import html
import io
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from tqdm import tqdm

from ..benchmark.paper import PAPER_ROLE
from ..checks import whole
from ..paths import SETTINGS

try:
    import jinja2
    import nbclient
    import nbconvert
    import nbformat
    import papermill
    import yaml
except ImportError as error:
    raise ImportError(f"notebooks are run by papermill, and {error.name} is missing: pip install 'nibkit[reports]'") from error

# The report set: notebook -> the parameters of each of its runs. A notebook that is not here runs once, as it is.
BOTH = [{"dataset": "scenes-objects"}, {"dataset": "scenes-captions"}]
RUNS = {"03_benchmark": BOTH, "04_num_steps": BOTH, "05_target_layer": BOTH, "06_m2ib_beta": BOTH}

# Stands on a page of another model or data, below what it was made with.
OTHERS = (
    "The sentences of this notebook were written about the bundled model and drawings. Where they name a finding, it is theirs: "
    "of what is named above, only the tables and figures below speak."
)
TABLE = re.compile(r"\bT_[0-9a-f]{5}(?![0-9a-f])")  # pandas' name for a styled table

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """One notebook with one set of parameters; `settings` holds the values of all its parameters, given or default.

    about: the model and data of its set, "" for the bundled ones.
    """

    name: str
    notebook: Path
    parameters: dict
    settings: dict
    about: str = ""


@dataclass(frozen=True)
class Subject:
    """A model and data that the notebooks are run on in place of the bundled ones.

    model: what `nibkit.load` takes; slug: its name as a folder; data: name -> what `nibkit.data.load` takes, may be empty;
    about: model, checksum of its weights, and how many pairs each data set has.
    """

    model: str
    slug: str
    data: dict[str, str]
    about: str


def subject(model: str, folder: str | None = None) -> Subject:
    """The Subject of a model and a folder that holds data sets (see `nibkit.data.discover`); "hf" fetches the hub's presets.

    Both are loaded once, so that what is missing is said before any notebook runs. Errors: those of `nibkit.load` and
    `nibkit.data.load`.
    """
    from .. import data
    from ..models import NAMES, checksum, load

    kind, colon, place = model.rpartition(":")
    slug = model
    if model not in NAMES and Path(place).exists():  # notebooks run in another folder
        model, slug = f"{kind}{colon}{Path(place).resolve()}", Path(place).resolve().stem
    clip = load(model)
    found = {}
    if folder:
        presets = {name: f"hf:{name}" for name in data.hub.PRESETS}
        found = presets if folder == "hf" else data.discover(Path(folder))
        found = {name: str(path.resolve()) if isinstance(path, Path) else path for name, path in found.items()}
    counts = [f"{name} {len(data.load(path)):,} pairs" for name, path in found.items()] or ["the bundled drawings"]
    about = f"{clip.name}, weights {checksum(clip)}; data: {', '.join(counts)}"
    return Subject(model, re.sub(r"[^\w.-]+", "-", slug).strip("-"), found, about)


def checkout() -> Path:
    """The folder that holds notebooks/ and nibkit/; FileNotFoundError for an installed wheel, which has neither."""
    if (PACKAGE_ROOT / "notebooks").is_dir():
        return PACKAGE_ROOT
    raise FileNotFoundError(
        f"there is no folder notebooks/ in {PACKAGE_ROOT}: reports need a checkout of the repository; "
        "clone it and run the command from there"
    )


# ---- which runs, with which parameters


def declared(notebook: Path) -> dict[str, dict]:
    """Parameters of a notebook: name -> {type, default}, from the cell tagged `parameters`, as papermill reads it.

    ValueError where that cell assigns a name that papermill would overlook (a second "=" on the line hides it).
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        found = papermill.inspect_notebook(notebook)
    except ValueError as error:  # names no notebook
        raise ValueError(f"{notebook.name}: {error}; save it once in JupyterLab with a Python 3 kernel") from None
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    for name in re.findall(r"^(\w+)\s*(?::[^=\n]*)?=", cells[0].source if cells else "", re.MULTILINE):
        if name not in found:
            raise ValueError(
                f"papermill cannot read the line of {name!r} in the parameters cell of {notebook.name}: "
                "it must be `name: type = value  # help`, with no other = in it"
            )
    parameters = {}
    for name, entry in found.items():
        try:
            default = ast.literal_eval(entry["default"])
        except (ValueError, SyntaxError):
            what = f"{name} = {entry['default']} in the parameters cell of {notebook.name}"
            raise ValueError(f"{what} is not a literal such as 3 or 'a'") from None
        kind = entry["inferred_type_name"]
        kind = type(default).__name__ if kind == "None" else kind.split("[")[0]
        if kind not in TYPES:
            raise ValueError(f"{name} in {notebook.name} has type {kind}; allowed: {', '.join(TYPES)}")
        parameters[name] = {"type": kind, "default": default}
    return parameters


def _checked(notebook: Path, name: str, value: object, allowed: dict[str, dict]) -> object:
    """`value` as the type that the notebook declares for `name`; text from the command line is read as a literal."""
    if name not in allowed:
        names = ", ".join(f"{n}: {entry['type']}" for n, entry in allowed.items()) or "none"
        raise ValueError(f"{notebook.stem} has no parameter {name!r}; it has {names}")
    kind = allowed[name]["type"]
    read = value
    if isinstance(value, str) and kind != "str":
        try:
            read = float(value) if kind == "float" else ast.literal_eval(value.title() if kind == "bool" else value)
        except (ValueError, SyntaxError):
            pass  # still a str, so refused below
    if kind == "float" and type(read) is int:
        read = float(read)
    if type(read) is not TYPES[kind]:
        default = allowed[name]["default"]
        raise ValueError(f"{name}={value!r} is not of type {kind}, which {notebook.stem} needs (default {default!r})")
    return read


def _select(candidates: list, names: list[str], only: tuple[str, ...]) -> list:
    """The candidates whose name begins with one of `only` (all where it is empty); ValueError where one fits none."""
    for start in only:
        if not any(name.startswith(start) for name in names):
            raise ValueError(f"no report begins with {start!r}; there are {', '.join(names)}")
    return [c for c, name in zip(candidates, names) if not only or name.startswith(tuple(only))]


def _numbered(notebooks: Path) -> list[Path]:
    found = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no numbered notebook such as 01_theory.ipynb in {notebooks}")
    return found


def _entries(notebook: Path, about: Subject | None) -> list[dict]:
    """What sets the runs of a notebook apart: its entries in RUNS, or one for each of the subject's data sets."""
    entries = RUNS.get(notebook.stem, [{}])
    if not about or not about.data:
        return entries
    allowed = declared(notebook)
    scored = [{"dataset": path} for name, path in about.data.items() if name in PAPER_ROLE]
    if "dataset" in allowed and scored:  # a notebook that is not in RUNS looks at one set, the first
        return scored if notebook.stem in RUNS else scored[:1]
    return [{"pairs": about.data["rsicd"]}] if "pairs" in allowed and "rsicd" in about.data else entries


def _name(notebook: Path, values: list) -> str:
    return re.sub(r"[^\w.-]+", "-", "-".join([notebook.stem, *map(str, values)]))


def plan(
    notebooks: Path, *, only: tuple[str, ...] = (), parameters: dict | None = None, about: Subject | None = None
) -> list[Run]:
    """The runs to make, in order, every parameter checked; nothing is executed.

    only: beginnings of run names, e.g. ("03",); all where empty.
    parameters: name -> value (text is read as the declared type), for those of the selected notebooks that have it.
    about: model and data in place of the bundled ones.
    A run is named after its notebook and the data set that sets it apart, e.g. "03_benchmark-scenes-objects".
    ValueError for a name that no selected notebook has, a value of the wrong type, or an `only` that fits no run.
    """
    parameters = parameters or {}
    if "out" in parameters:
        raise ValueError("the runner sets `out` itself: choose the folder of all reports with --out FOLDER")
    if about and "model" in parameters:
        raise ValueError(f"the model is {about.model} already; leave -p model out")
    short = {path: name for name, path in about.data.items()} if about else {}
    named = lambda notebook, values: _name(notebook, [short.get(str(v), v) for v in values])  # noqa: E731
    table = [(notebook, entry) for notebook in _numbered(notebooks) for entry in _entries(notebook, about)]
    selected = _select(table, [named(notebook, entry.values()) for notebook, entry in table], only)
    allowed = {notebook: declared(notebook) for notebook, _ in selected}
    for name in parameters:
        if not any(name in a for a in allowed.values()):
            lists = "; ".join(f"{n.stem}: {', '.join(a) or 'none'}" for n, a in allowed.items())
            raise ValueError(f"no selected notebook has a parameter {name!r}. Parameters of {lists}")
    runs = {}
    for notebook, entry in selected:
        given = {"model": about.model} if about and "model" in allowed[notebook] else {}
        given |= entry | {name: value for name, value in parameters.items() if name in allowed[notebook]}
        given = {name: _checked(notebook, name, value, allowed[notebook]) for name, value in given.items()}
        settings = {name: entry["default"] for name, entry in allowed[notebook].items()} | given
        name = named(notebook, [given[key] for key in entry])
        # one value for all runs of a notebook makes them one
        runs[name] = Run(name, notebook, given, settings, about.about if about else "")
    return list(runs.values())


# ---- what a run depends on


def _content(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _tree(folder: Path, pattern: str) -> list[Path]:
    """Files below folder, sorted, without hidden ones."""
    files = (p for p in folder.rglob(pattern) if p.is_file())
    return sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def fingerprint(run: Run, shared: dict[str, str] | None = None) -> str:
    """Hash of all a run depends on: cell sources, parameters, nibkit/**/*.py, data/**, and files that parameters name.

    Files in code and data/ count by content. A parameter that is the path of an existing file or folder, read from
    notebooks/, counts by name, size and modification time of what is there, so a notebook must not write into one.
    shared: `code_and_data` of the checkout, so that many runs read those files once.
    """
    folder = run.notebook.parent
    named = {}
    for name, value in run.settings.items():
        if name != "out" and isinstance(value, str) and value and os.path.exists(folder / value):
            path = folder / value
            for file in _tree(path, "*") if path.is_dir() else [path]:
                stat = file.stat()
                named[os.path.relpath(file, folder)] = [stat.st_size, stat.st_mtime_ns]
    parts = {
        "cells": [[cell.cell_type, cell.source] for cell in nbformat.read(run.notebook, as_version=4).cells],
        "parameters": {name: value for name, value in run.settings.items() if name != "out"},
        "about": run.about,  # names the weights
        "files": named,
        "shared": shared or code_and_data(folder.parent),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_and_data(root: Path) -> dict[str, str]:
    """Content hashes of root/nibkit/**/*.py and root/data/**: path -> SHA-256."""
    files = _tree(root / "nibkit", "*.py") + _tree(root / "data", "*")
    return {file.relative_to(root).as_posix(): _content(file) for file in files}


# ---- notebooks


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


def _failure(nb: nbformat.NotebookNode) -> str | None:
    """The cell that raised and what it raised; cells are counted from 1 and as in the notebook's source."""
    added = {"papermill-error-cell-tag", "injected-parameters"}
    cells = [cell for cell in nb.cells if not added & set(cell.metadata.get("tags", []))]
    for number, cell in enumerate(cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                first = cell.source.strip().splitlines()[0]
                return f"cell {number} of {len(cells)} (`{first}`): {output.ename}: {output.evalue}"
    return None


def _title_and_question(notebook: Path) -> tuple[str, str]:
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


def _environment(jobs: int) -> dict[str, str]:
    """For the kernels: the nibkit that runs this code, and cores shared between notebooks that run side by side."""
    paths = [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.pop("MPLBACKEND", None)  # a kernel that inherits Agg from a Makefile shows no figures
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return environment


# ---- executing


def _save(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _state(out: Path, name: str) -> Path:
    return out / ".state" / f"{name}.json"


def _record(out: Path, name: str) -> dict:
    """What is known of a run's last execution; empty where it never ran."""
    path = _state(out, name)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _export(nb: nbformat.NotebookNode, title: str) -> str:
    nb = copy.deepcopy(nb)
    nb.cells[0].source = re.sub(r"\[!\[(.*?)\]\(http.*?\)\]", r"[\1]", nb.cells[0].source)  # a badge is fetched, text not
    # require.js would only serve widgets, which are gone: an empty script in its place keeps the page off the network
    exporter = nbconvert.HTMLExporter(template_name="lab", embed_images=True, require_js_url="data:text/javascript,")
    return exporter.from_notebook_node(nb, resources={"metadata": {"name": title}})[0]


def execute(run: Run, out: Path, digest: str, jobs: int = 1) -> dict:
    """Execute one run in a papermill process of its own; returns its record, which is also saved below out/.state.

    jobs: how many such processes share this machine's cores. Errors: FileNotFoundError where the notebook is not here.

    Files of an earlier execution with another hash, or of none that is known here (a fresh clone), are removed first; with
    the same hash they stay, so that a notebook can go on where it was interrupted. A kernel that dies gets one more try,
    a cell that raises does not.
    """
    folder, cwd = out / run.name, run.notebook.parent
    if not run.notebook.exists():
        raise FileNotFoundError(
            f"{socket.gethostname()} has no {run.notebook}: give every worker this checkout at the same path, such as on a "
            "shared file system"
        )
    previous = _record(out, run.name)
    if not previous or previous["hash"] != digest:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    title, question = _title_and_question(run.notebook)
    if which := run.name[len(run.notebook.stem) + 1 :]:
        title += f" ({which})"
    record = {"name": run.name, "title": title, "question": question, "hash": digest, "status": "running"}
    record["parameters"] = {name: value for name, value in run.settings.items() if name != "out"}
    record["about"] = run.about
    record["started"] = datetime.now().astimezone().isoformat(timespec="seconds")
    _save(_state(out, run.name), json.dumps(record, indent=1))

    executed = folder / f"{run.name}.ipynb"
    given = dict(run.parameters)
    if "out" in run.settings:
        given["out"] = Path(os.path.relpath(folder, cwd)).as_posix()
    command = [sys.executable, "-m", "papermill", run.notebook.name, os.path.relpath(executed, cwd)]
    command += ["--kernel", "python3", "--no-progress-bar", "--log-level", "ERROR"]
    command += ["--parameters_yaml", yaml.safe_dump(given)]
    output = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    start = time.monotonic()
    for _ in range(2):
        executed.unlink(missing_ok=True)
        child = subprocess.run(command, cwd=cwd, env=_environment(jobs), stdin=subprocess.DEVNULL, **output)
        if not re.search("Kernel died|Kernel didn't respond", child.stderr):
            break
    record["seconds"] = round(time.monotonic() - start, 1)
    record["status"] = "failed" if child.returncode else "ok"
    nb = nbformat.read(executed, as_version=4) if executed.exists() else None
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [f"papermill ended with code {child.returncode}"])[-1]
        record["error"] = (nb and _failure(nb)) or last
    if nb:
        nb = clean(nb)
        if run.about:
            label = f"> **Made with** {html.escape(run.about)}.\n>\n> {OTHERS}"
            nb.cells.insert(1, nbformat.v4.new_markdown_cell(label, id="about"))
        nbformat.write(nb, executed)
        _save(out / f"{run.name}.html", _export(nb, title))
    _save(_state(out, run.name), json.dumps(record, indent=1))
    return record


def run_reports(
    notebooks: Path,
    out: Path,
    *,
    only: tuple[str, ...] = (),
    parameters: dict | None = None,
    jobs: int = 1,
    force: bool = False,
    about: Subject | None = None,
    client=None,
) -> list[dict]:
    """Make the reports of the notebooks in a folder; returns one record per run, in order.

    only, parameters, about: see `plan`, which refuses bad ones before anything runs. jobs: notebooks executed side by side,
    each in a process of its own, so that this needs no cluster and no Dask.
    client: a Dask `distributed.Client`: its workers execute the notebooks instead, as many as they have threads. They see
    the same checkout and the same `out`, at the same paths.
    A run that ended well and whose `fingerprint` is unchanged is not repeated, unless `force`.
    A record has name, title, question, parameters, about, status ("ok" or "failed"), started (ISO 8601), seconds, hash,
    and, for a failed run, error: the cell (counted from 1), its first line, and the exception.
    """
    whole("jobs", jobs)
    notebooks, out = Path(notebooks).resolve(), Path(out).resolve()
    runs = plan(notebooks, only=only, parameters=parameters, about=about)
    shared = code_and_data(notebooks.parent)
    records, todo = {}, []
    for run in runs:
        digest, known = fingerprint(run, shared), _record(out, run.name)
        fresh = known.get("hash") == digest and known["status"] == "ok" and (out / f"{run.name}.html").exists()
        if fresh and not force:
            records[run.name] = known
            tqdm.write(f"up to date  {run.name}")
        else:
            todo.append((run, digest))
    # the index reads the other reports: it comes last, and again whenever one of them was made
    is_index = lambda run: run.notebook.stem.startswith("00")  # noqa: E731
    if todo and not any(is_index(run) for run, _ in todo):
        todo += [(run, fingerprint(run, shared)) for run in runs if is_index(run)]
    stages = [[t for t in todo if not is_index(t[0])], [t for t in todo if is_index(t[0])]]
    pool = client.get_executor(pure=False) if client else ThreadPoolExecutor(jobs)  # a thread only waits for its process
    pending = set()
    try:
        # disable=None: no bar in a log file, where the line per run is enough
        with tqdm(total=len(todo), desc="reports", unit="run", disable=None) as bar:
            for stage in stages:
                pending = {pool.submit(execute, run, out, digest, jobs) for run, digest in stage}
                started = {run.name for run, _ in stage}
                while pending:
                    finished, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                    for future in finished:
                        record = future.result()
                        records[record["name"]] = record
                        started.discard(record["name"])
                        tqdm.write(f"{record['status']:<10}  {record['name']}  {tqdm.format_interval(record['seconds'])}")
                        write_index(out)
                        bar.update()
                    bar.set_postfix_str(", ".join(sorted(started)[:jobs]))  # also moves the clock
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown()
    write_index(out)
    return [records[run.name] for run in runs]


def refresh(notebooks: Path, *, only: tuple[str, ...] = ()) -> dict[str, str]:
    """Re-execute the committed notebooks in place with their defaults, and `clean` them; returns name -> error.

    only: beginnings of notebook names, all where empty. A notebook that fails keeps its file as it was. Rows that an earlier
    execution left where the notebook writes are made anew: they may be another version's.
    """
    found = _numbered(Path(notebooks))
    failures = {}
    for notebook in (bar := tqdm(_select(found, [p.stem for p in found], only), desc="notebooks", disable=None)):
        bar.set_postfix_str(notebook.stem)
        nb = clean(nbformat.read(notebook, as_version=4))
        out = declared(notebook).get("out")
        resumable = (notebook.parent / out["default"]).glob(f"*{SETTINGS}") if out else ()  # `benchmark.run` leaves them
        for settings in resumable:
            settings.unlink()
            settings.with_name(settings.name.removesuffix(SETTINGS)).unlink(missing_ok=True)
        client = nbclient.NotebookClient(
            nb, kernel_name="python3", timeout=None, resources={"metadata": {"path": str(notebook.parent)}}
        )
        try:
            client.execute(env=_environment(1))
        except (nbclient.exceptions.CellExecutionError, RuntimeError) as error:  # a kernel that dies is a RuntimeError
            failures[notebook.stem] = _failure(nb) or str(error)
            continue
        except (AssertionError, asyncio.CancelledError):  # how nbclient ends when SIGINT or SIGTERM has made it drop its kernel
            raise KeyboardInterrupt from None
        nbformat.write(clean(nb), notebook)
    return failures


# ---- the overview

INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nibkit reports</title>
<style>
:root { color-scheme: light dark; --line: #8884; --dim: #808080; --good: #2e7d4f; --bad: #c0392b; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin: 0; }
h2 { font-size: 1.2rem; margin: 0; }
p { margin: .3rem 0; }
section { border-top: 1px solid var(--line); padding: 1.3rem 0; margin-top: 1.3rem; }
small, .facts, figcaption { color: var(--dim); font-size: .85rem; }
code { font: .85em ui-monospace, monospace; }
.facts b { color: var(--good); }
.failed .facts b { color: var(--bad); }
pre { white-space: pre-wrap; border-left: 3px solid var(--bad); padding-left: .8rem; font-size: .85rem; }
.files { display: flex; flex-wrap: wrap; column-gap: 1rem; }
.thumbs { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .8rem; }
figure { margin: 0; }
figure img { display: block; height: 150px; max-width: 100%; border: 1px solid var(--line); background: #fff; }
</style>
</head>
<body>
<h1>nibkit reports</h1>
<p><small>{{ runs|length }} runs, {{ runs|selectattr("status", "equalto", "ok")|list|length }} ok.
Each page is one executed notebook; its tables and figures are the files beside it.</small></p>
{% for about in runs|map(attribute="about")|unique|select %}<p>Made with {{ about }}</p>{% endfor %}
{% for run in runs %}
<section class="{{ run.status }}">
<h2>{% if run.html %}<a href="{{ run.html }}">{{ run.title }}</a>{% else %}{{ run.title }}{% endif %}</h2>
{% if run.question %}<p>{{ run.question }}</p>{% endif %}
<p class="facts"><b>{{ run.status }}</b> &middot; {{ run.name }} &middot; {{ run.when }}
{% if run.took %}&middot; took {{ run.took }}{% endif %}</p>
{% if run.parameters %}<p>{% for name, value in run.parameters.items() %}
<code>{{ name }} = {{ value }}</code>{{ ", " if not loop.last }}{% endfor %}</p>{% endif %}
{% if run.error %}<pre>{{ run.error }}</pre>{% endif %}
<p class="files">{% for file in run.tables %}<a href="{{ file.url }}">{{ file.name }}</a>{% endfor %}</p>
<div class="thumbs">{% for file in run.figures %}
<figure><a href="{{ file.url }}"><img src="{{ file.thumbnail }}" alt="{{ file.name }}"></a>
<figcaption>{{ file.name }}</figcaption></figure>{% endfor %}
</div>
</section>
{% endfor %}
</body>
</html>
"""


def _thumbnail(path: Path) -> str:
    """A PNG as a data URI at twice the height at which the overview shows it."""
    with Image.open(path) as picture:
        picture = picture.convert("RGBA")
        picture.thumbnail((900, 300))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_index(out: Path) -> Path:
    """Write out/index.html, a page that needs no other file: every run known below `out`, with links and thumbnails."""
    runs = []
    for state in sorted((out / ".state").glob("*.json")):
        run = json.loads(state.read_text(encoding="utf-8"))
        paths = _tree(out / run["name"], "*")
        files = [(path, {"name": path.name, "url": quote(path.relative_to(out).as_posix())}) for path in paths]
        html = out / f"{run['name']}.html"
        runs.append(
            run
            | {
                "parameters": {n: json.dumps(v, ensure_ascii=False) for n, v in run["parameters"].items()},
                "html": quote(html.name) if html.exists() else None,
                "when": datetime.fromisoformat(run["started"]).strftime("%Y-%m-%d %H:%M"),
                "took": tqdm.format_interval(run["seconds"]) if "seconds" in run else None,
                "tables": [file for path, file in files if path.suffix == ".csv"],
                "figures": [file | {"thumbnail": _thumbnail(path)} for path, file in files if path.suffix == ".png"],
            }
        )
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(INDEX)
    _save(out / "index.html", template.render(runs=runs))
    return out / "index.html"
