"""Data set x methods -> one tidy row per (pair, label)."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from ..checks import PROTOCOLS, in_a_row, one_of, whole
from ..data import PairDataset
from ..metrics.confidence import drops
from ..metrics.contract import Metric
from ..models import checksum
from .batch import Job, ahead, line, work
from .cluster import distributed
from .lock import owned
from .plan import COST, measured, planned
from .resume import Rows


def run(
    clip,
    dataset: Sequence,
    methods: Iterable[str] | Mapping[str, tuple[str, dict]],
    *,
    metrics: Sequence[Metric] = (drops,),
    out: str | Path | None = None,
    n_pairs: int = 0,
    batch: int = 16,
    protocol: str = "paper",
    options: dict | None = None,
    progress: bool = True,
    seed: int = 0,
    client=None,
) -> pd.DataFrame:
    """Explain every pair by every method and measure it: a row per (pair, label), in order of dataset, then labels.

    dataset: items with `.id`, `.image` and `.text`; the first `n_pairs` are used, 0 = all. Pairs of a
        PairDataset that have several captions are first resolved to one by `clip` and `protocol`.
    methods: names of METHODS, each its own label, or label -> (name, options), {"exact": ("nib", {"rule": "exact"})}.
    metrics: of the same maps, side by side (`nibkit.metrics.contract`).
    options: for every method, such as {"layer": 9}; a method's own come first.
    out: CSV that rows are appended to, batch by batch. A run that was killed goes on from there and ends with the same
        rows as an undisturbed one; pairs that failed are tried again. More pairs or methods may be asked for later;
        other settings (they are kept beside it, in OUT.settings.json) and other texts of the same pairs are refused,
        and so is a file that another run is writing (OUT.lock is there while it does).
    client: a Dask `distributed.Client`: batches run on its workers, and another takes over what one that dies had. Each
        worker process loads the model once, by the arguments that nibkit.load had here, and reads the pictures itself;
        one that cannot, or has other weights, ends the run with an error that names it. Rows are those of one without.

    Columns: dataset, pair, picture (size and hash: pairs that show the same pixels share it), text, label, method (of
    METHODS), one for each option in which labels differ (nan where a method decides or has none), those of `metrics`
    (by default the four of `metrics.confidence`, percentage points), seconds (per pair, by the method alone: work that
    methods share counts for each), passes, error (why a row has no metrics, such as a picture that cannot be read).
    Errors, before the work: ValueError, or TypeError for an unknown option; with a client, RuntimeError.
    """
    batch, n_pairs = whole("batch", batch), whole("n_pairs", n_pairs, 0)
    one_of("protocol", protocol, PROTOCOLS)
    numbers = [*measured(metrics), *COST]
    if client is not None and clip.source is None:
        raise ValueError(f"{clip} was not made by nibkit.load; workers load the model themselves and do not know how")
    plan = planned(clip, methods, {"seed": seed, "protocol": protocol, **(options or {})})
    if isinstance(dataset, PairDataset):
        dataset = dataset[: n_pairs or None].resolve(clip, protocol)
    name, pairs, texts = _asked(dataset, n_pairs)
    settings = {"model": f"{clip.label}, weights {checksum(clip)}", "dataset": name, "protocol": protocol}
    settings |= {"metrics": [metric.__name__ for metric in metrics], "methods": plan}
    with tempfile.TemporaryDirectory() as scratch, owned(Path(out or Path(scratch) / "rows.csv")) as file:
        rows = Rows(file, numbers, settings, texts)
        chunks = ([dataset[k] for k in pairs[start : start + batch]] for start in pairs[::batch])
        jobs = (Job(name, chunk, plan, protocol, tuple(metrics), rows.lacking(chunk)) for chunk in chunks)
        jobs = (job for job in jobs if job.todo)
        here = (made for job, items in ahead(clip, jobs) for made in work(clip, job, items))
        with tqdm(total=len(rows.asked), unit="row", smoothing=0, disable=not progress) as bar:
            bar.update(sum(key in rows.found for key in rows.asked))
            for made in distributed(client, clip, jobs) if client else here:
                bar.update(rows.append(made))
        rows.save()
        return rows.table()


def _asked(dataset: Sequence, n_pairs: int) -> tuple[str, range, dict[str, str]]:
    """The data set's name, the pairs' places in it, and id -> text; ValueError for no pairs or a repeated id."""
    name, n = in_a_row("dataset", getattr(dataset, "name", "custom")), len(dataset)
    pairs = range(min(n_pairs, n) if n_pairs else n)
    if not pairs:
        raise ValueError(f"the dataset {name} has no pairs")
    texts = {in_a_row("pair", dataset[k].id): line(dataset[k].text) for k in pairs}
    if len(texts) < len(pairs):
        raise ValueError("two pairs of the dataset have the same id; rows could not be told apart: give each its own")
    return name, pairs, texts
