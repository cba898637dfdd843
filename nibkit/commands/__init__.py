"""The commands of `python -m nibkit`, one file each.

`command(parser)` of a file adds the command's arguments and returns what runs them; its docstring is the command's help.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

Run = Callable[[argparse.Namespace], int]  # parsed arguments -> exit code
NAMES = ("explain", "reports", "notebooks", "datasets", "badges", "bench", "models", "convergence")
DRAWN = (".png", ".svg", ".pdf")  # what matplotlib draws


def writable(what: str, file: str, *suffixes: str) -> Path:
    """The path of a file to write when the work is done, its folder made; ValueError where that would fail, or for
    another suffix than one of these, where there are any.
    """
    path = Path(file)
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{what} {file} does not end in one of: {', '.join(suffixes)}")
    new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise ValueError(f"{what} {file} cannot be written ({error.strerror}); name another file") from None
    if new:
        path.unlink()
    return path
