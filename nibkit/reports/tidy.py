"""What a rerun leaves for git: what it found anew, not last digits, a clock's readings or a picture's metadata."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from ..paths import long_cells, replace

CLOCK = re.compile("second|fastest|slowest")  # columns that a clock filled
CLOCKED = ".times."  # in the name of a file that is about time: git ignores it, and so does `tidy`
REAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")


def tidy(folder: Path, earlier: Path) -> None:
    """Make a run's tables and pictures comparable with those of an earlier run, and keep the earlier where they agree.

    Tables lose the columns of seconds, which stand in `NAME.times.csv` beside them, and have six significant digits;
    pictures lose their metadata. A table whose words are those of the earlier file of its name, and whose numbers are
    within 0.1 % of them or 0.01 % of their column's largest, gives way to it; so does a picture that looks the same.
    """
    for kind, write, alike in (("*.csv", _table, _same_table), ("*.png", _picture, _same_picture)):
        for file in [file for file in folder.rglob(kind) if CLOCKED not in file.name]:
            write(file)
            kept = earlier / file.relative_to(folder)
            if kept.exists() and alike(file, kept):
                shutil.copyfile(kept, file)


def _read(file: Path) -> list[list[str]]:
    with open(file, newline="", encoding="utf-8") as stream, long_cells():
        return list(csv.reader(stream))


def _save(file: Path, rows: list[list[str]]) -> None:
    def write(part: Path) -> None:
        with open(part, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)

    replace(file, write)


def _table(file: Path) -> None:
    head, *rows = _read(file)
    rows = [[f"{float(cell):.6g}" if REAL.fullmatch(cell) else cell for cell in row] for row in rows]
    clocked = [bool(CLOCK.search(name)) for name in head]
    if any(clocked):
        times = [[row[i] for i, timed in enumerate(clocked) if timed or i == 0] for row in (head, *rows)]
        _save(file.with_suffix(CLOCKED + "csv"), times)
    _save(file, [[cell for cell, timed in zip(row, clocked, strict=True) if not timed] for row in (head, *rows)])


def _same_table(file: Path, kept: Path) -> bool:
    ours, theirs = (list(zip(*_read(path), strict=True)) for path in (file, kept))
    return len(ours) == len(theirs) and all(map(_same_column, ours, theirs))


def _same_column(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether two columns have the same words, and numbers that differ in rounding."""
    ours, theirs = ([_number(cell) for cell in column] for column in (ours, theirs))
    words = [[x if isinstance(x, str) else None for x in column] for column in (ours, theirs)]
    if words[0] != words[1]:
        return False
    a, b = (np.array([x for x in column if not isinstance(x, str)]) for column in (ours, theirs))
    return np.allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b[np.isfinite(b)]).max(initial=0), equal_nan=True)


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _picture(file: Path) -> None:
    with Image.open(file) as picture:
        pixels = Image.fromarray(np.asarray(picture.convert("RGBA")))
    replace(file, lambda part: pixels.save(part, format="PNG", optimize=True))


def _same_picture(file: Path, kept: Path) -> bool:
    """Whether no square of 4 x 4 pixels differs by more than 12 of 255 levels: between a line's edge and a digit."""
    ours, theirs = (Image.open(path).convert("RGBA") for path in (file, kept))
    if ours.size != theirs.size:
        return False
    small = [np.asarray(picture.reduce(4), dtype=float) for picture in (ours, theirs)]
    return np.abs(small[0] - small[1]).max() <= 12
