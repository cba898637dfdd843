"""Where the bundled files are: in data/ of a checkout, or inside the installed wheel; what files are called, and how
they are written whole.
"""

import contextlib
import csv
import os
import shlex
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
WAIT = 10  # seconds for an answer from the network
SETTINGS = ".settings.json"  # behind the name of a table of rows: how they were made, so that a run can go on


def bundled(name: str) -> Path:
    """Path of a bundled file or folder such as "scenes/model.safetensors"; FileNotFoundError where it is missing."""
    for root in (PACKAGE.parent / "data", PACKAGE / "_data"):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(
        f"bundled file {name!r} is neither in {PACKAGE.parent / 'data'} nor in {PACKAGE / '_data'}; "
        "reinstall nibkit, or run it from a checkout that has its data/ folder"
    )


def checkout() -> Path:
    """The folder that holds notebooks/ and nibkit/; FileNotFoundError for an installed wheel, which has neither."""
    root = PACKAGE.parent
    if (root / "notebooks").is_dir():
        return root
    raise FileNotFoundError(
        f"there is no folder notebooks/ in {root}: reports need a checkout of the repository; "
        "clone it and run the command from there"
    )


def install(extras: str) -> str:
    """The command that adds optional dependencies, "captum" or "datasets,open_clip", to the nibkit that runs: from its
    clone, or else from the repository that its wheel names (project.urls in pyproject.toml).
    """
    clone = PACKAGE.parent
    if (clone / "pyproject.toml").exists():
        return f"pip install -e {shlex.quote(f'{clone}[{extras}]')}"
    urls = dict(line.split(", ", 1) for line in metadata.metadata("nibkit").get_all("Project-URL", []))
    return f"pip install 'nibkit[{extras}] @ git+{urls['repository']}'"


def replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file anew by write(path), so that it is the old one or the new one at any moment."""
    part = file.with_name(file.name + ".part")
    write(part)
    os.replace(part, file)


def save(path: Path, text: str) -> None:
    """Write a text file whole or not at all, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, lambda part: part.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def long_cells() -> Iterator[None]:
    """Python's csv reads cells of any length in this block, not of 131,072 characters at most."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
