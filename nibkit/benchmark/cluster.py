"""Batches of a run on the workers of a Dask cluster."""

import functools
import itertools
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait

from ..models import checksum, load
from .batch import Job, prepare, ready, work

_HERE = threading.Lock()


@functools.cache
def _model(source: tuple, weights: str):
    """A worker's model, loaded once; source: items of `Clip.source`."""
    clip = load(**dict(source))
    if (found := checksum(clip)) != weights:
        raise ValueError(f"its weights are others (checksum {found}, not {weights})")
    return clip


def _remote(source: tuple, weights: str, job: Job) -> tuple[list[list[dict]], dict[str, str], str]:
    """On a worker: the rows of `work`, why pairs could not be prepared, and who says so."""
    me = f"worker {socket.gethostname()}, process {os.getpid()}"
    with _HERE:  # threads of one worker wait for the first to load
        try:
            clip = _model(source, weights)
        except Exception as error:
            raise RuntimeError(f"{me} cannot load {dict(source)['name']!r}: {error}") from None
    items = ready(clip, job)
    unread = {item.row["pair"]: item.row["error"] for item in items if item.ids is None}
    return list(work(clip, job, items)), unread, me


def distributed(client, clip, jobs: Iterator[Job]) -> Iterator[list[dict]]:
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
                    if (why := unread.get(str(pair.id))) and prepare(clip, job.dataset, pair).ids is not None:
                        raise RuntimeError(
                            f"{worker} cannot read pair {pair.id!r}, which can be read here ({why}); "
                            "give every worker the data at the same path, such as on a shared file system"
                        )
                yield from rows
    finally:
        for future in pending:
            future.cancel()
