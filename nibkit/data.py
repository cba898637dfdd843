"""Pair datasets: sequences of (picture, caption), with object masks and a word -> object map where they are known.

A layout is a small function that lists its pairs; a picture is read when a pair's `.image` is asked for.
"""

import csv
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from .paths import bundled
from .scenes.world import words_of

BUNDLED = {  # name -> folder in data/
    "scenes-objects": "scenes/objects",
    "scenes-captions": "scenes/captions",
    "cat-and-dog": "scenes/cat-and-dog",
}


class DataError(ValueError):
    """A file of a dataset cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Pair:
    """One picture and its caption.

    Attributes:
        id: stable name within all data sets, such as "objects/0000".
        text: the caption.
        words: position of a word in `text.split()` -> name of the object it names; {} where that is not known.
        image: the picture, PIL RGB, read anew at every access; DataError where it cannot be read.
        masks: object name -> boolean array (H, W), true on the object's visible pixels; {} where there are none.
    """

    id: str
    text: str
    read_image: Callable[[], Image.Image] = field(repr=False, compare=False)
    read_masks: Callable[[], dict[str, np.ndarray]] = field(repr=False, compare=False, default=dict)
    words: dict[int, str] = field(default_factory=dict)

    @property
    def image(self) -> Image.Image:
        return self.read_image()

    @property
    def masks(self) -> dict[str, np.ndarray]:
        return self.read_masks()


class PairDataset(Sequence):
    """Pairs in a fixed order. `dataset[3]` is a Pair, `dataset[:10]` a PairDataset of the same name."""

    def __init__(self, name: str, pairs: Sequence[Pair]):
        self.name = name
        self._pairs = tuple(pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return PairDataset(self.name, self._pairs[index])
        return self._pairs[index]

    def __repr__(self) -> str:
        return f"PairDataset({self.name!r}, {len(self)} pairs)"


def load(name: str) -> PairDataset:
    """A bundled dataset.

    "scenes-objects": one object each, "a photo of a cat". "scenes-captions": one to three objects, free captions.
    "cat-and-dog": one picture under the three captions of the paper's Figure 1.
    """
    if name not in BUNDLED:
        raise ValueError(f"dataset {name!r} is not known; there are {', '.join(BUNDLED)}")
    return PairDataset(name, _scenes(bundled(BUNDLED[name])))


def load_csv(path: str | Path) -> PairDataset:
    """The pairs of a CSV file with the columns `image` (a path inside the CSV's own folder) and `text`.

    Other columns are ignored; a picture is read when it is asked for. DataError where the file, a column or a cell is
    missing, or a path leads out of the folder.
    """
    path, pairs = Path(path), []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}") from error
    for column in ("image", "text"):
        if column not in columns:
            raise DataError(f"{path} has no column {column!r}, only {', '.join(columns) or 'none'}; it needs image and text")
    for i, row in enumerate(rows):
        if not row["image"] or not row["text"]:
            raise DataError(f"{path}: row {i + 1} has no {'text' if row['image'] else 'image'}; fill it in or take it out")
        if Path(row["image"]).is_absolute() or ".." in Path(row["image"]).parts:
            raise DataError(f"{path}: row {i + 1} names {row['image']!r}, outside the CSV's folder; give a path inside it")
        read = functools.partial(_read_rgb, path.parent / row["image"])
        pairs.append(Pair(id=f"{path.stem}/{i:04d}", text=row["text"], read_image=read))
    return PairDataset(path.stem, pairs)


# --- layouts -----------------------------------------------------------------------------------------------------


def _scenes(folder: Path) -> list[Pair]:
    """The layout that `nibkit.scenes.datasets` writes."""
    pairs = []
    with open(folder / "captions.csv", encoding="utf-8", newline="") as file:
        for i, row in enumerate(csv.DictReader(file)):
            names = row["objects"].split()
            pairs.append(
                Pair(
                    id=f"{folder.name}/{i:04d}",
                    text=row["text"],
                    read_image=functools.partial(_read_rgb, folder / row["image"]),
                    read_masks=functools.partial(_read_masks, folder / row["mask"], names),
                    words=words_of(row["text"], names),
                )
            )
    return pairs


# --- files -------------------------------------------------------------------------------------------------------


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError) as error:  # Pillow calls some broken PNGs a SyntaxError
        raise DataError(f"{path} cannot be read as a picture: {error}") from error
    return image


def _read_rgb(path: Path) -> Image.Image:
    return _open(path).convert("RGB")


def _read_masks(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    labels = np.asarray(_open(path))
    return {name: labels == k for k, name in enumerate(names, 1)}
