"""Data set x methods -> one tidy row per (pair, method)."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from ..checks import PROTOCOLS, in_a_row, one_of, whole
from ..data import PairDataset
from ..methods import METHODS
from ..models import checksum
from ..paths import replace
from .batch import CONFIDENCE, COST, Job, Measure, line, ready, work
from .cluster import distributed
from .lock import owned
from .resume import resume, write


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
        settings (they are kept beside it, in OUT.settings.json) and other texts of the same pairs are refused, and so
        is a file that another run is writing (OUT.lock says so while it does).

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
    name = in_a_row("dataset", getattr(dataset, "name", "custom"))
    plan = {in_a_row("method", label): how for label, how in plan.items()}
    order = [(in_a_row("pair", dataset[k].id), label) for k in pairs for label in plan]
    if len(set(order)) < len(order):
        raise ValueError("two pairs of the dataset have the same id; rows could not be told apart: give each its own")
    if not pairs:
        raise ValueError(f"the dataset {name} has no pairs")

    with tempfile.TemporaryDirectory() as scratch, owned(Path(out or Path(scratch) / "rows.csv")) as file:
        model = f"{clip.label}, weights {checksum(clip)}"
        settings = {"model": model, "dataset": name, "protocol": protocol, "measure": measure.name, "methods": plan}
        done = resume(file, columns, settings, order, {str(dataset[k].id): line(dataset[k].text) for k in pairs})
        finished = sum(key in done for key in order)
        with tqdm(total=len(order), initial=finished, unit="row", smoothing=0, disable=not progress) as bar:
            chunks = ([dataset[k] for k in pairs[start : start + batch]] for start in pairs[::batch])
            jobs = (Job(name, chunk, plan, protocol, measure, _todo(plan, chunk, done)) for chunk in chunks)
            jobs = (job for job in jobs if job.todo)
            here = (rows for job in jobs for rows in work(clip, job, ready(clip, job)))
            for rows in distributed(client, clip, jobs) if client else here:
                new = {(row["pair"], row["method"]): row for row in rows}
                new = {key: row for key, row in new.items() if key not in done}
                write(file, columns, new.values(), "a")
                done |= new
                bar.update(len(new))
        done = {key: done[key] for key in order} | done
        replace(file, lambda part: write(part, columns, done.values(), "w"))
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
