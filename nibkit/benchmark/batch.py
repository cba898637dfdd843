"""One batch of a run: pairs made ready, explained by every method, and measured."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pandas as pd
import torch

from ..checks import one_line as line
from ..methods import METHODS
from ..metrics.contract import Batch, Metric
from ..models.devices import onto
from ..models.sharing import once, shared
from .plan import COST, Plan

READERS, AHEAD = 16, 2  # threads that read pictures for a GPU, and how many batches


class Job(NamedTuple):
    """A batch of pairs and what is to be done with it: rows `todo`, each a (pair, label). A method that any of them
    needs sees the whole batch: its make-up shows in the last digits.
    """

    dataset: str
    pairs: Sequence
    plan: Plan
    protocol: str
    metrics: Sequence[Metric]
    todo: set[tuple[str, str]]


class Item(NamedTuple):
    """A pair as the methods take it: pixels (1, 3, H, W) and ids; None where there are none, and `row` says why."""

    row: dict
    pair: object = None
    pixels: torch.Tensor | None = None
    ids: torch.Tensor | None = None


def ready(clip, job: Job) -> list[Item]:
    """The pairs of a batch made ready."""
    return [prepare(clip, job.dataset, pair) for pair in job.pairs]


def ahead(clip, jobs: Iterator[Job]) -> Iterator[tuple[Job, list[Item]]]:
    """Each job with its pairs made ready. While a GPU explains one batch, the CPU's threads read the next two."""
    if clip.device.type != "cuda":
        yield from ((job, ready(clip, job)) for job in jobs)
        return
    waiting = deque()
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as readers:
        try:
            for job in jobs:
                waiting.append((job, [readers.submit(prepare, clip, job.dataset, pair) for pair in job.pairs]))
                if len(waiting) > AHEAD:
                    job, items = waiting.popleft()
                    yield job, [item.result() for item in items]
            for job, items in waiting:
                yield job, [item.result() for item in items]
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


def work(clip, job: Job, items: list[Item]) -> Iterator[list[dict]]:
    """The rows of each method in turn."""
    good = [item for item in items if item.ids is not None]
    with shared():
        for label, how in job.plan.items():
            todo = [item for item in items if (item.row["pair"], label) in job.todo]
            results = _results(clip, good, how, job) if any(i.ids is not None for i in todo) else []
            found = {item.row["pair"]: result for item, result in zip(good, results)}
            yield [{**item.row, "label": label, **found.get(item.row["pair"], {})} for item in todo]


def prepare(clip, dataset: str, pair) -> Item:
    """A pair as methods take it; what cannot be read or tokenized becomes a row with its reason in `error`."""
    row = {"dataset": dataset, "pair": str(pair.id), "picture": str(pair.id), "text": line(pair.text)}
    try:
        (ids,) = clip.tokenize([pair.text])
        if len(ids) < 3:
            raise ValueError(f"the caption {pair.text!r} has no word to score")
        image = pair.image
        row["picture"] = f"{image.width}x{image.height} {hashlib.sha256(image.tobytes()).hexdigest()[:12]}"
        return Item(row, pair, clip.preprocess(image, "cpu"), ids)
    except Exception as error:
        return Item(row | _failed(error))


def _results(clip, items: list[Item], how: tuple[str, dict], job: Job) -> list[dict]:
    """The numbers and error of each item. Where a batch fails, its pairs are tried one by one."""
    if not items:
        return []
    try:
        pixels, ids = once((*items, "inputs"), lambda: _inputs(clip, items))
        a = METHODS[how[0]](clip, pixels, ids, **how[1])
        batch = Batch([item.pair for item in items], pixels, ids, job.protocol)
        table = pd.concat([metric(clip, batch, a) for metric in job.metrics], axis=1)
        table[COST] = a.info.reindex(columns=COST).to_numpy()
        return [{**row, "error": ""} for row in table.astype(float).to_dict("records")]
    except Exception as error:
        if len(items) == 1:
            return [_failed(error)]
        return [result for item in items for result in _results(clip, [item], how, job)]


def _inputs(clip, items: list[Item]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    pixels = torch.cat([item.pixels for item in items])
    if clip.device.type == "cuda":  # page-locked memory goes to a GPU while the CPU does other things
        pixels = pixels.pin_memory()
    return onto(clip.device, pixels), [item.ids for item in items]


def _failed(error: Exception) -> dict:
    return {"error": line(f"{type(error).__name__}: {error}")}
