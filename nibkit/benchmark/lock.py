"""The file of rows is one run's at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..paths import long_cells


@contextlib.contextmanager
def owned(file: Path) -> Iterator[Path]:
    """A file of rows that in this block no other run may write, cells of any length in it; its folder is made.

    ValueError where another run has it, on this machine or one that shares its disk, and for a pipe or a device.
    """
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise ValueError(f"{file} is a pipe or a device, which a run cannot go on in; choose a file")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{file}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        instead = "wait until it ends, or choose another file"
        raise ValueError(f"{file} is being written by another run; {instead}") from None
    try:
        with long_cells():
            yield file
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before it is let go: whoever waits for it takes a new one
        lock.release()
