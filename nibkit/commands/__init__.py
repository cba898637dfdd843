"""The commands of `nibkit`, one file each.

`command(parser)` of a file adds the command's arguments and returns what runs them; its docstring is the command's
help.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

Run = Callable[[argparse.Namespace], int]  # parsed arguments -> exit code
NAMES = ("explain", "benchmark", "reports", "notebooks", "datasets", "badges", "bench", "models", "convergence")
DRAWN = (".png", ".svg", ".pdf")  # what matplotlib draws


def writable(what: str, file: str, *suffixes: str) -> Path:
    """The path of a file to write when the work is done, its folder made; ValueError where that would fail, or for
    another suffix than one of these, where there are any.
    """
    path, target = Path(file), Path(os.path.realpath(file))  # of a link, what it points to is tried
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{what} {file} does not end in one of: {', '.join(suffixes)}")
    try:
        new = not target.exists()
        if not (new or target.is_file() or target.is_dir()):
            raise OSError(0, "it is a pipe or a device")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.open("ab").close()
    except OSError as error:
        raise ValueError(f"{what} {file} cannot be written ({error.strerror}); name another file") from None
    if new:
        target.unlink()
    return path
