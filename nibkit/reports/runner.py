"""Executes runs: `run_reports` into a folder of reports, `refresh` the committed notebooks in place."""

import asyncio
import contextlib
import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from datetime import datetime
from pathlib import Path
from threading import Event

import nbclient
import nbformat
import yaml
from tqdm import tqdm

from ..checks import whole
from ..paths import PACKAGE, SETTINGS, save
from .clean import clean, export, failure, title_and_question
from .hashes import code_and_data, fingerprint
from .index import write_index
from .parameters import Run, Subject, declared, numbered, plan, select
from .tidy import tidy

# Stands on a page of another model or data, below what it was made with.
OTHERS = (
    "The sentences of this notebook were written about the bundled model and drawings. Where they name a finding, it "
    "is theirs: of what is named above, only the tables and figures below speak."
)


def _environment(jobs: int) -> dict[str, str]:
    """For the kernels: the nibkit that runs this code, and cores shared between notebooks that run side by side."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.pop("MPLBACKEND", None)  # a kernel that inherits Agg from a Makefile shows no figures
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return environment


def _state(out: Path, name: str) -> Path:
    return out / ".state" / f"{name}.json"


def _record(out: Path, name: str) -> dict:
    """What is known of a run's last execution; empty where it never ran."""
    path = _state(out, name)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _put_aside(folder: Path, previous: dict, digest: str) -> Path:
    """Make a run's folder ready; returns where the files of the last one that ended well are now, for `tidy`.

    Files stay in the folder where the same run (its hash) was cut off, so that the notebook can go on from there.
    """
    earlier = folder.parent / ".state" / f"{folder.name}.earlier"
    if not previous or previous["hash"] != digest or previous["status"] == "ok":
        if folder.exists() and not earlier.exists():
            earlier.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(earlier)
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return earlier


def _papermill(run: Run, given: dict, executed: Path, jobs: int, stop: Event | None) -> tuple[int, str]:
    """Exit code and stderr of the process that executes the notebook; it is ended soon after `stop` is set.

    A kernel that dies gets one more try, a cell that raises does not. One whose papermill is gone ends by itself.
    """
    cwd = run.notebook.parent
    command = [sys.executable, "-m", "papermill", run.notebook.name, os.path.relpath(executed, cwd)]
    command += ["--kernel", "python3", "--no-progress-bar", "--log-level", "ERROR"]
    command += ["--parameters_yaml", yaml.safe_dump(given)]
    output = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    output |= {"encoding": "utf-8", "errors": "replace", "cwd": cwd, "env": _environment(jobs)}
    for _ in range(2):
        executed.unlink(missing_ok=True)
        with subprocess.Popen(command, **output) as child:
            said = None
            while said is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    said = child.communicate(timeout=0.2)[1]
                if stop and stop.is_set():
                    child.kill()
                    child.wait()
                    executed.unlink(missing_ok=True)  # half of it may be written
                    return child.returncode, "interrupted"
        if not re.search("Kernel died|Kernel didn't respond", said):
            break
    return child.returncode, said


def execute(run: Run, out: Path, digest: str, jobs: int = 1, stop: Event | None = None) -> dict:
    """Execute one run in a papermill process of its own; returns its record, which is also saved below out/.state.

    jobs: how many such processes share this machine's cores. stop: set by another thread, it ends the run, which is
    then "interrupted". Errors: FileNotFoundError where the notebook is not here.
    """
    folder, cwd = out / run.name, run.notebook.parent
    if not run.notebook.exists():
        raise FileNotFoundError(
            f"{socket.gethostname()} has no {run.notebook}: give every worker this checkout at the same path, such "
            "as on a shared file system"
        )
    earlier = _put_aside(folder, _record(out, run.name), digest)
    title, question = title_and_question(run.notebook)
    if which := run.name[len(run.notebook.stem) + 1 :]:
        title += f" ({which})"
    record = {"name": run.name, "title": title, "question": question, "hash": digest, "status": "running"}
    record["parameters"] = {name: value for name, value in run.settings.items() if name != "out"}
    record["about"] = run.about
    record["started"] = datetime.now().astimezone().isoformat(timespec="seconds")
    save(_state(out, run.name), json.dumps(record, indent=1))

    executed = folder / f"{run.name}.ipynb"
    given = dict(run.parameters)
    if "out" in run.settings:
        given["out"] = Path(os.path.relpath(folder, cwd)).as_posix()
    start = time.monotonic()
    code, said = _papermill(run, given, executed, jobs, stop)
    record["seconds"] = round(time.monotonic() - start, 1)
    record["status"] = "interrupted" if stop and stop.is_set() else "failed" if code else "ok"
    nb = nbformat.read(executed, as_version=4) if executed.exists() else None
    if code:
        last = (said.strip().splitlines() or [f"papermill ended with code {code}"])[-1]
        record["error"] = (nb and failure(nb)) or last
    if nb:
        nb = clean(nb)
        if run.about:
            label = f"> **Made with** {html.escape(run.about)}.\n>\n> {OTHERS}"
            nb.cells.insert(1, nbformat.v4.new_markdown_cell(label, id="about"))
        nbformat.write(nb, executed)
        save(out / f"{run.name}.html", export(nb, title))
    if record["status"] == "ok":
        tidy(folder, earlier)
        shutil.rmtree(earlier, ignore_errors=True)
    save(_state(out, run.name), json.dumps(record, indent=1))
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

    only, parameters, about: see `plan`; it and `early` refuse bad ones before anything runs. jobs: notebooks side by
    side, each in a process of its own, so that this needs no cluster and no Dask.
    client: a Dask `distributed.Client`: its workers execute the notebooks instead, as many as they have threads. They
    see the same checkout and the same `out`, at the same paths.
    A run that ended well and whose `fingerprint` is unchanged is not repeated, unless `force`.
    KeyboardInterrupt ends the runs, which stay "interrupted" in the overview; a cluster's workers end theirs.
    A record has name, title, question, parameters, about, status ("ok" or "failed"), started (ISO 8601), seconds, hash,
    and, for a failed run, error: the cell (counted from 1), its first line, and the exception.
    """
    whole("jobs", jobs)
    notebooks, out = Path(notebooks).resolve(), Path(out).resolve()
    runs = plan(notebooks, only=only, parameters=parameters, about=about)
    from . import early  # it knows models and methods, for which a mistyped name need not wait

    early.check(runs, parameters or ())
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
    if todo and not any(_is_index(run) for run, _ in todo):
        todo += [(run, fingerprint(run, shared)) for run in runs if _is_index(run)]
    stages = [[t for t in todo if not _is_index(t[0])], [t for t in todo if _is_index(t[0])]]
    # a thread only waits for its process
    pool = client.get_executor(pure=False) if client else ThreadPoolExecutor(jobs)
    try:
        for record in _executed(pool, stages, out, jobs):
            records[record["name"]] = record
    finally:
        write_index(out)
    return [records[run.name] for run in runs]


def _is_index(run) -> bool:
    """The index reads the other reports: it comes last, and again whenever one of them was made."""
    return run.notebook.stem.startswith("00")


def _executed(pool: Executor, stages: list[list[tuple]], out: Path, jobs: int) -> Iterator[dict]:
    """The record of each run as it ends, stage after stage."""
    pending = set()
    here = isinstance(pool, ThreadPoolExecutor)
    stop = Event() if here else None  # a cluster's workers are out of its reach
    try:
        # disable=None: no bar in a log file, where the line per run is enough
        with tqdm(total=sum(map(len, stages)), desc="reports", unit="run", disable=None) as bar:
            for stage in stages:
                pending = {pool.submit(execute, run, out, digest, jobs, stop) for run, digest in stage}
                started = {run.name for run, _ in stage}
                while pending:
                    finished, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                    for record in (future.result() for future in finished):
                        yield record
                        started.discard(record["name"])
                        spent = tqdm.format_interval(record["seconds"])
                        tqdm.write(f"{record['status']:<10}  {record['name']}  {spent}")
                        write_index(out)
                        bar.update()
                    bar.set_postfix_str(", ".join(sorted(started)[:jobs]))  # also moves the clock
    finally:
        for future in pending:
            future.cancel()
        if here:
            stop.set()
        pool.shutdown(wait=here)


def refresh(notebooks: Path, *, only: tuple[str, ...] = ()) -> dict[str, str]:
    """Re-execute the committed notebooks in place with their defaults, and `clean` them; returns name -> error.

    only: beginnings of notebook names, all where empty. A notebook that fails keeps its file as it was. Rows that an
    earlier execution left where the notebook writes are made anew: they may be another version's.
    """
    found = numbered(Path(notebooks))
    failures = {}
    for notebook in (bar := tqdm(select(found, [p.stem for p in found], only), desc="notebooks", disable=None)):
        bar.set_postfix_str(notebook.stem)
        nb = clean(nbformat.read(notebook, as_version=4))
        out = declared(notebook).get("out")
        # `benchmark.run` leaves them
        resumable = (notebook.parent / out["default"]).glob(f"*{SETTINGS}") if out else ()
        for settings in resumable:
            settings.unlink()
            settings.with_name(settings.name.removesuffix(SETTINGS)).unlink(missing_ok=True)
        client = nbclient.NotebookClient(
            nb, kernel_name="python3", timeout=None, resources={"metadata": {"path": str(notebook.parent)}}
        )
        try:
            client.execute(env=_environment(1))
        except (nbclient.exceptions.CellExecutionError, RuntimeError) as error:  # a kernel that dies is a RuntimeError
            failures[notebook.stem] = failure(nb) or str(error)
            continue
        # how nbclient ends when SIGINT or SIGTERM has made it drop its kernel
        except (AssertionError, asyncio.CancelledError):
            raise KeyboardInterrupt from None
        nbformat.write(clean(nb), notebook)
    return failures
