"""Dataset x methods -> one tidy row per (pair, method); tables over such rows (tests: nibkit.ranking).

A run is resumed from its file; what is made of it are tables:

    rows = run(clip, data.load("scenes-objects"), ["nib", "random"], out="rows.csv")
    style(summary(rows)), style(beside_paper(summary(rows), "scenes-objects"))
"""

import csv
import functools
import html
import io
import itertools
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from pandas.io.formats.style import Styler
from tqdm.auto import tqdm

from ..checks import PROTOCOLS, one_of, whole
from ..data import PairDataset
from ..methods import METHODS
from ..metrics.confidence import HIGHER_IS_BETTER, METRICS, confidence
from ..metrics.stats import intervals
from ..models import checksum, load
from ..models.sharing import once, shared
from ..paths import SETTINGS
from .paper import PAPER_PAIRS
from .paper import table as paper_table

COST = ["seconds", "passes"]
DECIMALS = {"n": 0, "failures": 0, "passes": 1}  # shown; of metrics, see `style`


class Measure(NamedTuple):
    """What `run` measures: its name, its columns (metric -> higher is better; None: a description), and the function
    (clip, pairs, pixels, ids, attribution, protocol) -> DataFrame of those columns, one row per pair.
    """

    name: str
    columns: Mapping[str, bool | None]
    function: Callable[..., pd.DataFrame]


def _confidence(clip, pairs, pixels, ids, a, protocol: str) -> pd.DataFrame:
    table = confidence(clip, pixels, ids, a.heatmap(), a.word_scores(), protocol)
    if table.isna().any(axis=None):
        raise ValueError("a metric is not a number")
    return table


CONFIDENCE = Measure("confidence", HIGHER_IS_BETTER, _confidence)


def run(
    clip,
    dataset: Sequence,
    methods: Iterable[str] | Mapping[str, tuple[str, dict]],
    *,
    out: str | Path | None = None,
    n_pairs: int = 0,
    batch: int = 16,
    protocol: str = "paper",
    options: dict | None = None,
    progress: bool = True,
    seed: int = 0,
    measure: Measure = CONFIDENCE,
    client=None,
) -> pd.DataFrame:
    """Explain every pair by every method and measure it: a row per (pair, method), in order of dataset, then methods.

    dataset: items with `.id`, `.image` and `.text`; the first `n_pairs` are used, 0 = all. Pairs of a
        PairDataset that have several captions are first resolved to one by `clip` and `protocol`.
    methods: names of METHODS, or label -> (name, options), such as {"nib exact": ("nib", {"rule": "exact"})}.
    options: for every method, such as {"layer": 9}; a method's own come first.
    out: CSV that rows are appended to, batch by batch. A run that was killed goes on from there and ends with the same
        rows as an undisturbed one; pairs that failed are tried again. More pairs or methods may be asked for later; other
        settings (they are kept beside it, in OUT.settings.json) and other texts of the same pairs are refused.

    client: a Dask `distributed.Client`: batches run on its workers, and another takes over what one that dies had. Each
        worker process loads the model once, by the arguments that nibkit.load had here, and reads the pictures itself;
        one that cannot, or has other weights, ends the run with an error that names it. Rows are those of a run without.

    Columns: dataset, pair, text, method (the label), those of `measure` (by default the four metrics of
    `metrics.confidence`, percent points), seconds (per pair, what the method takes by itself: work that methods share is
    done once, but counted for each), passes, error. A row has its metrics, or in `error` the reason why it has none: a
    picture that cannot be read, a caption that is too long, a method that failed on this pair. Errors, before the
    work: ValueError, or TypeError for an option that a method does not have; with a client, RuntimeError.
    """
    batch, n_pairs = whole("batch", batch), whole("n_pairs", n_pairs, 0)
    one_of("protocol", protocol, PROTOCOLS)
    columns = ["dataset", "pair", "text", "method", *measure.columns, *COST, "error"]
    if client is not None and clip.source is None:
        raise ValueError(f"{clip} was not made by nibkit.load; workers load the model themselves and do not know how")
    plan = _plan(clip, methods, {"seed": seed, "protocol": protocol, **(options or {})})
    if isinstance(dataset, PairDataset):
        dataset = dataset[: n_pairs or None].resolve(clip, protocol)
    pairs = range(min(n_pairs, len(dataset)) if n_pairs else len(dataset))
    order = [(str(dataset[k].id), label) for k in pairs for label in plan]
    if len(set(order)) < len(order):
        raise ValueError("two pairs of the dataset have the same id; rows could not be told apart: give each its own")
    name = getattr(dataset, "name", "custom")
    if not pairs:
        raise ValueError(f"the dataset {name} has no pairs")

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(out or Path(scratch) / "rows.csv")
        model = f"{_named(clip)}, weights {checksum(clip)}"
        settings = {"model": model, "dataset": name, "protocol": protocol, "measure": measure.name, "methods": plan}
        done = _resume(file, columns, settings, order, {str(dataset[k].id): _line(dataset[k].text) for k in pairs})
        finished = sum(key in done for key in order)
        with tqdm(total=len(order), initial=finished, unit="row", smoothing=0, disable=not progress) as bar:
            chunks = ([dataset[k] for k in pairs[start : start + batch]] for start in pairs[::batch])
            jobs = (Job(name, chunk, plan, protocol, measure, _todo(plan, chunk, done)) for chunk in chunks)
            jobs = (job for job in jobs if job.todo)
            here = (rows for job in jobs for rows in _work(clip, job, _items(clip, job)))
            for rows in _distributed(client, clip, jobs) if client else here:
                new = {(row["pair"], row["method"]): row for row in rows}
                new = {key: row for key, row in new.items() if key not in done}
                _write(file, columns, new.values(), "a")
                done |= new
                bar.update(len(new))
        done = {key: done[key] for key in order} | done
        _replace(file, lambda part: _write(part, columns, done.values(), "w"))
    return pd.DataFrame([done[key] for key in order], columns=columns)


def _plan(clip, methods, common: dict) -> dict[str, tuple[str, dict]]:
    """label -> (name of METHODS, all its options), mistakes refused."""
    if isinstance(methods, str):
        raise ValueError(f"methods={methods!r} is one name; give a list of names: [{methods!r}]")
    plan = dict(methods) if isinstance(methods, Mapping) else {name: (name, {}) for name in methods}
    for label, how in plan.items():
        if not isinstance(how, tuple | list) or len(how) != 2 or not isinstance(how[1], Mapping):
            raise ValueError(f"methods[{label!r}]={how!r} is not (name, options) such as ('nib', {{'rule': 'exact'}})")
        plan[label] = one_of("method", how[0], METHODS), {**common, **how[1]}
        METHODS[how[0]].check(clip, plan[label][1])
    return plan


def _todo(plan: dict, pairs: Sequence, done: Mapping) -> set[tuple[str, str]]:
    return {(str(pair.id), label) for pair in pairs for label in plan} - done.keys()


# --- one batch ---------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """A batch of pairs and what is to be done with it: rows `todo`, each a (pair, label). A method that any of them needs
    sees the whole batch: its make-up shows in the last digits.
    """

    dataset: str
    pairs: Sequence
    plan: dict[str, tuple[str, dict]]
    protocol: str
    measure: Measure
    todo: set[tuple[str, str]]


def _items(clip, job: Job) -> list["Item"]:
    return [_prepare(clip, job.dataset, pair) for pair in job.pairs]


def _work(clip, job: Job, items: list["Item"]) -> Iterator[list[dict]]:
    """The rows of each method in turn."""
    good = [item for item in items if item.ids is not None]
    with shared():
        for label, how in job.plan.items():
            todo = [item for item in items if (item.row["pair"], label) in job.todo]
            results = _results(clip, good, *how, job.protocol, job.measure) if any(i.ids is not None for i in todo) else []
            found = {item.row["pair"]: result for item, result in zip(good, results)}
            yield [{**item.row, "method": label, **found.get(item.row["pair"], {})} for item in todo]


class Item(NamedTuple):
    """A pair as the methods take it: pixels (1, 3, H, W) and ids; None where there are none, and `row` says why."""

    row: dict
    pair: object = None
    pixels: torch.Tensor | None = None
    ids: torch.Tensor | None = None


def _prepare(clip, dataset: str, pair) -> Item:
    row = {"dataset": dataset, "pair": str(pair.id), "text": _line(pair.text)}
    try:
        (ids,) = clip.tokenize([pair.text])
        if len(ids) < 3:
            raise ValueError(f"the caption {pair.text!r} has no word to score")
        return Item(row, pair, clip.preprocess(pair.image), ids)
    except Exception as error:
        return Item(row | _failed(error))


def _results(clip, items: list[Item], name: str, options: dict, protocol: str, measure: Measure) -> list[dict]:
    """The numbers and error of each item. Where a batch fails, its pairs are tried one by one."""
    if not items:
        return []
    try:
        pixels, ids = once((*items, "inputs"), lambda: (torch.cat([i.pixels for i in items]), [i.ids for i in items]))
        a = METHODS[name](clip, pixels, ids, **options)
        table = measure.function(clip, [item.pair for item in items], pixels, ids, a, protocol)
        table[COST] = a.info.reindex(columns=COST).to_numpy()
        return [{**row, "error": ""} for row in table.astype(float).to_dict("records")]
    except Exception as error:
        if len(items) == 1:
            return [_failed(error)]
        return [result for item in items for result in _results(clip, [item], name, options, protocol, measure)]


def _failed(error: Exception) -> dict:
    return {"error": _line(f"{type(error).__name__}: {error}")}


def _line(text: object) -> str:
    return " ".join(str(text).split())


# --- on other machines -------------------------------------------------------------------------------------------


_HERE = threading.Lock()


@functools.cache
def _model(source: tuple, weights: str):
    """A worker's model, loaded once; source: items of `Clip.source`."""
    clip = load(**dict(source))
    if (found := checksum(clip)) != weights:
        raise ValueError(f"its weights are others (checksum {found}, not {weights})")
    return clip


def _remote(source: tuple, weights: str, job: Job) -> tuple[list[list[dict]], dict[str, str], str]:
    """On a worker: the rows of `_work`, why pairs could not be prepared, and who says so."""
    me = f"worker {socket.gethostname()}, process {os.getpid()}"
    with _HERE:  # threads of one worker wait for the first to load
        try:
            clip = _model(source, weights)
        except Exception as error:
            raise RuntimeError(f"{me} cannot load {dict(source)['name']!r}: {error}") from None
    items = _items(clip, job)
    unread = {item.row["pair"]: item.row["error"] for item in items if item.ids is None}
    return list(_work(clip, job, items)), unread, me


def _distributed(client, clip, jobs: Iterator[Job]) -> Iterator[list[dict]]:
    """The rows of all jobs as workers finish them; two jobs wait per thread, so that the queue stays short."""
    source, weights = tuple(clip.source.items()), checksum(clip)
    executor, pending = client.get_executor(pure=False), {}
    try:
        while True:
            room = 2 * max(1, sum(client.nthreads().values())) - len(pending)
            new = itertools.islice(jobs, max(0, room))
            pending |= {executor.submit(_remote, source, weights, job): job for job in new}
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                job = pending.pop(future)
                rows, unread, worker = future.result()
                for pair in job.pairs:
                    if (why := unread.get(str(pair.id))) and _prepare(clip, job.dataset, pair).ids is not None:
                        raise RuntimeError(
                            f"{worker} cannot read pair {pair.id!r}, which can be read here ({why}); "
                            "give every worker the data at the same path, such as on a shared file system"
                        )
                yield from rows
    finally:
        for future in pending:
            future.cancel()


# --- the file ----------------------------------------------------------------------------------------------------


def _resume(
    file: Path, columns: list[str], settings: dict, order: list[tuple[str, str]], texts: dict[str, str]
) -> dict[tuple[str, str], dict]:
    """The rows of `file` that need not be made again, a half-written last line cut off; a new file where there is none.

    order: (pair, label) of the rows that are asked for, of which those that failed are left out; texts: pair -> its text.
    """
    beside, settings = file.with_name(file.name + SETTINGS), json.loads(json.dumps(settings, default=_plain))
    content = file.read_bytes() if file.exists() else b""
    new = (",".join(columns) + "\n").encode().startswith(content)  # nothing is in it yet but (a part of) our header
    content, done, instead = content[: content.rfind(b"\n") + 1], {}, "choose another file or delete it"
    if not new:
        try:
            known = json.loads(beside.read_text(encoding="utf-8"))
            methods = {label: settings["methods"].get(label, was) for label, was in known["methods"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{file} has no {beside.name} beside it that says how it was made; {instead}") from None
        for key, value in {**settings, "methods": methods}.items():
            if (was := known.get(key)) != value:
                raise ValueError(f"{file} was made with {key} = {was}, not {value}; {instead}")
        settings["methods"] = known["methods"] | settings["methods"]
        try:
            rows = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
            if rows.fieldnames != columns:
                raise ValueError(f"its columns are {', '.join(rows.fieldnames or [])}")
            for row in rows:
                numbers = {key: float(row[key] or "nan") for key in columns[4:-1]}  # pandas leaves nan empty
                done[row["pair"], row["method"]] = {key: row[key] for key in columns} | numbers
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{file} is not a table of this run: {error}; {instead}") from None
        for key in order:
            if key in done and done[key]["error"]:
                del done[key]
        for (pair, _), row in done.items():
            was = row["text"]
            if not row["error"] and (text := texts.get(pair, was)) != was:
                raise ValueError(f"{file} holds pair {pair!r} with the text {was!r}, the data set now says {text!r}; {instead}")
    file.parent.mkdir(parents=True, exist_ok=True)
    _replace(beside, lambda part: part.write_text(json.dumps(settings, indent=1), encoding="utf-8"))
    if new:
        _write(file, columns, [], "w")
    else:
        os.truncate(file, len(content))
    return done


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)  # an option may be one of numpy's integers


def _write(file: Path, columns: list[str], rows: Iterable[dict], mode: str) -> None:
    """Append ("a") rows, or start the file anew ("w"); they are on the disk when this returns. What failed is nan."""
    with open(file, mode, encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="nan", lineterminator="\n")
        if mode == "w":
            writer.writeheader()
        writer.writerows(rows)
        stream.flush()
        os.fsync(stream.fileno())


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file anew, so that it is the old one or the new one at any moment."""
    part = file.with_name(file.name + ".part")
    write(part)
    os.replace(part, file)


def _named(clip) -> str:
    """The model's name, and the dtype of its passes where that is not float32: their numbers differ."""
    return clip.name if clip.dtype == torch.float32 else f"{clip.name} in {str(clip.dtype).removeprefix('torch.')}"


# --- tables ------------------------------------------------------------------------------------------------------


def _measured(rows: pd.DataFrame) -> pd.Series:
    return rows[METRICS].notna().all(axis=1)


def summary(
    rows: pd.DataFrame, by: str | list[str] = "method", level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Per method: n (pairs measured), failures, each metric's mean and bootstrap interval over pairs (METRIC, METRIC_low
    and METRIC_high), pairs_per_second (1 / mean seconds) and passes (mean).
    """

    def row(group: pd.DataFrame) -> dict:
        good = group[_measured(group)]
        result = {"n": len(good), "failures": len(group) - len(good)}
        low, high = intervals(good[METRICS].to_numpy(float), level, resamples, seed)
        for k, metric in enumerate(METRICS):
            result |= {metric: good[metric].mean(), f"{metric}_low": low[k], f"{metric}_high": high[k]}
        return result | {"pairs_per_second": 1 / good.seconds.mean(), "passes": good.passes.mean()}

    groups = {key: row(group) for key, group in rows.groupby(by, sort=False)}
    index = pd.MultiIndex.from_tuples(groups, names=by) if isinstance(by, list) else pd.Index(groups, name=by)
    return pd.DataFrame(list(groups.values()), index=index)


def beside_paper(summary: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Our means next to the paper's Table 2, columns (metric, "ours" | "paper"), for the methods that the paper has.

    dataset: one of the paper's, or one that plays its part (paper.PAPER_ROLE). What a
    label says in parentheses is a remark: "rise (300 masks)" stands beside the paper's rise. The paper's pairs per second
    were measured on the authors' machine.
    """
    paper = paper_table("table2_benchmark", dataset).rename(columns={"fps": "pairs_per_second"}).set_index("method")
    names = [label.split(" (")[0] for label in summary.index]
    ours = summary[[name in paper.index for name in names]]
    theirs = paper.loc[[name for name in names if name in paper.index]].set_index(ours.index)
    columns = [*METRICS, "pairs_per_second"]
    sides = pd.concat({"ours": ours[columns], "paper": theirs[columns]}, axis=1)
    return sides.swaplevel(axis=1)[[(column, side) for column in columns for side in ("ours", "paper")]]


def about(clip, dataset: Sequence, rows: pd.DataFrame) -> pd.DataFrame:
    """Whose numbers `rows` are, in one row: model (and its dtype, if not float32), weights (`checksum`), dataset, pairs
    (in `rows`), of (in the dataset), paper_pairs (that the paper measured; nan for data that are not the paper's), failures
    (rows without metrics).
    """
    name = getattr(dataset, "name", "custom")
    row = {"model": _named(clip), "weights": checksum(clip), "dataset": name, "pairs": rows.pair.nunique(), "of": len(dataset)}
    row |= {"paper_pairs": PAPER_PAIRS.get(name, np.nan), "failures": int((rows.error != "").sum())}
    return pd.DataFrame([row])


def caption(about: pd.DataFrame) -> str:
    """A table of `about` in words: "Ours: scenes, weights 0a1b2c3d, on 48 of 256 pairs of scenes-objects"."""
    a = about.iloc[0]
    paper = "" if pd.isna(a.paper_pairs) else f" (the paper: {a.paper_pairs:,.0f})"
    failures = f"; {a.failures:,} failures" if a.failures else ""
    return f"Ours: {a.model}, weights {a.weights}, on {a.pairs:,} of {a.of:,} pairs of {a.dataset}{paper}{failures}"


def style(table: pd.DataFrame, about: pd.DataFrame | None = None) -> Styler:
    """A table of `summary` or `beside_paper` for the eye: the best of a metric in bold, intervals in small print.

    Our metrics have one decimal, the paper's, of a thousand pairs and more, two. Pairs per second are left blank where
    nothing was run (no passes: the controls).

    about: whose numbers these are, for the caption above the table.
    """
    first = lambda column: column[0] if isinstance(column, tuple) else column  # noqa: E731
    shown = table[[c for c in table if not first(c).endswith(("_low", "_high"))]].astype(object)
    for column in shown:
        better = HIGHER_IS_BETTER.get(first(column))
        ours = better is not None and column != (first(column), "paper")
        decimals = DECIMALS.get(column, 1 if ours else 2)
        values = table[column].round(decimals)
        text = values.map(f"{{:,.{decimals}f}}".format)
        if better is not None:
            text = text.mask(values == (values.max() if better else values.min()), "<b>" + text + "</b>")
        if f"{column}_low" in table:
            low, high = (table[f"{column}_{end}"].map(f"{{:.{decimals}f}}".format) for end in ("low", "high"))
            text = text + "<br><small>" + low + " to " + high + "</small>"
        shown[column] = text.mask(values.isna(), "–")
    if "passes" in table and "pairs_per_second" in table:
        shown["pairs_per_second"] = shown["pairs_per_second"].mask(table["passes"] == 0, "")
    arrows = {metric: f"{metric.replace('_', ' ')} {'↑' if up else '↓'}" for metric, up in HIGHER_IS_BETTER.items()}
    shown = shown.rename(columns={**arrows, "pairs_per_second": "pairs per second (ours: this run)"})
    styles = [{"selector": "td", "props": "text-align: right"}, {"selector": "caption", "props": "text-align: left"}]
    styled = shown.style.format_index(escape="html").set_table_styles(styles)
    return styled if about is None else styled.set_caption(html.escape(caption(about)))  # pandas does not escape captions
