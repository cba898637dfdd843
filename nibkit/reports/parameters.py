"""Which notebook runs with which parameters, checked before anything runs."""

import ast
import functools
import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
import papermill

from .. import data

# The report set: notebook -> the parameters of each of its runs. A notebook that is not here runs once, as it is.
BOTH = [{"dataset": "scenes-objects"}, {"dataset": "scenes-captions"}]
RUNS = {"03_benchmark": BOTH, "04_num_steps": BOTH, "05_target_layer": BOTH, "06_m2ib_beta": BOTH}
TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}


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

    model: what `nibkit.load` takes; slug: its name as a folder; data: name -> what `nibkit.data.load` takes, may be
    empty.
    """

    model: str
    slug: str
    data: dict[str, str]

    @functools.cached_property
    def weights(self) -> str:
        """The model's name and its weights' checksum; it is loaded for that. Errors: those of `nibkit.load`."""
        from ..models import checksum, load

        clip = load(self.model)
        return f"{clip.name}, weights {checksum(clip)}"

    def about(self, parameters: dict) -> str:
        """What a run with these parameters is made with: model, checksum, and how many pairs its data set has."""
        used = [(name, len(data.load(path))) for name, path in self.data.items() if path in parameters.values()]
        counts = ", ".join(f"{name}, {n:,} pairs" for name, n in used)
        return f"{self.weights}; data: {counts or 'the bundled drawings'}"


def subject(model: str, given: str | None = None) -> Subject:
    """The Subject of a model and of data: "hf", the hub's presets; a folder that holds sets of the paper
    (`nibkit.data.discover`); or one set, by its own name, whatever `nibkit.data.load` takes.

    Paths are those of the working directory. Nothing but lists of pairs is read: `plan` loads the model when all
    parameters are checked. Errors: those of `nibkit.data.load`.
    """
    kind, colon, place = model.rpartition(":")
    slug = model
    if os.path.exists(place):  # notebooks run in another folder
        from ..models import NAMES

        if model not in NAMES:
            model, slug = f"{kind}{colon}{Path(place).resolve()}", Path(place).resolve().stem
    found = {}
    if given == "hf":
        found = {name: f"hf:{name}" for name in data.hub.PRESETS}
    elif given:
        known = given in data.BUNDLED or given in data.DRAWN or not os.path.exists(given)
        path = given if known else str(Path(given).resolve())
        found = data.discover(Path(path)) if os.path.isdir(path) and not known else {}
        found = {name: str(place) for name, place in found.items()} or {data.load(path).name: path}
    return Subject(model, re.sub(r"[^\w.-]+", "-", slug).strip("-"), found)


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
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: brackets in brackets in brackets
            pass  # still a str, so refused below
    if kind == "float" and type(read) is int:
        read = float(read)
    if type(read) is not TYPES[kind]:
        default = allowed[name]["default"]
        raise ValueError(f"{name}={value!r} is not of type {kind}, which {notebook.stem} needs (default {default!r})")
    return read


def select(candidates: list, names: list[str], only: tuple[str, ...]) -> list:
    """The candidates whose name begins with one of `only` (all where it is empty); ValueError where one fits none."""
    for start in only:
        if not any(name.startswith(start) for name in names):
            raise ValueError(f"no report begins with {start!r}; there are {', '.join(names)}")
    return [c for c, name in zip(candidates, names) if not only or name.startswith(tuple(only))]


def numbered(notebooks: Path) -> list[Path]:
    """The numbered notebooks of a folder, in order; FileNotFoundError where there is none."""
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
    scored = [{"dataset": path} for name, path in about.data.items() if name != "rsicd"]
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
    ValueError for a name that no selected notebook has, a value of the wrong type, or an `only` that fits no run; all
    that before the model of `about` is loaded.
    """
    parameters = parameters or {}
    if "out" in parameters:
        raise ValueError("the runner sets `out` itself: choose the folder of all reports with --out FOLDER")
    if about and "model" in parameters:
        raise ValueError(f"the model is {about.model} already; leave -p model out")
    short = {path: name for name, path in about.data.items()} if about else {}
    def named(notebook, values):
        return _name(notebook, [short.get(str(v), v) for v in values])
    table = [(notebook, entry) for notebook in numbered(notebooks) for entry in _entries(notebook, about)]
    selected = select(table, [named(notebook, entry.values()) for notebook, entry in table], only)
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
        runs[name] = Run(name, notebook, given, settings)
    return [replace(run, about=about.about(run.settings)) for run in runs.values()] if about else list(runs.values())
