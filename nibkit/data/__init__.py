"""Pair datasets: sequences of (picture, caption), with object masks and a word -> object map where they are known.

`load` takes a bundled name, the path of a file or folder in a layout that people have on disk (layouts.py), or a set of
the Hugging Face hub (hub.py). A layout is a small function that lists its pairs; a picture is read, by the one reader
of pictures.py, when a pair's `.image` is asked for. data/README.md says which layouts there are and what becomes of
files and captions that are not as they should be.
"""

import os
from collections.abc import Callable
from pathlib import Path

from ..paths import bundled
from . import hub, layouts
from .layouts import discover
from .pairs import DataError, Pair, PairDataset

__all__ = ["BUNDLED", "DRAWN", "DataError", "Pair", "PairDataset", "discover", "load"]

BUNDLED = {  # name -> folder in data/
    "scenes-objects": "scenes/objects",
    "scenes-captions": "scenes/captions",
    "cat-and-dog": "scenes/cat-and-dog",
}
DRAWN: dict[str, Callable[[], PairDataset]] = {}  # name -> what draws the set; nibkit.scenes adds its own


def load(name: str | Path) -> PairDataset:
    """A dataset by name.

    name: "scenes-objects" (one object each, "a photo of a cat"), "scenes-captions" (one to three objects, free
        captions) or "cat-and-dog" (one picture under the three captions of the paper's Figure 1), which are bundled;
        "scenes-world" (colours, sizes, counts and places, in twins) or "aerial" (landscapes seen from above), which are
        drawn; the path of a table, a JSON file, an archive or a folder in one of the layouts of `layouts`; "hf:PRESET"
        or "hf:NAME,SPLIT,IMAGE,TEXT[,N]", see `hub.load`.
    Nothing but the list is read. ValueError for a name that is none of these, DataError (a ValueError) for a list that
    cannot be read or names a picture outside its folder; a broken picture shows when it is opened.

    >>> pairs = load("scenes-objects")
    >>> pairs[0].text, list(pairs[0].masks)
    ('a photo of a cat', ['cat'])
    """
    if name in BUNDLED:
        return layouts.read(bundled(BUNDLED[name]), name)
    if name in DRAWN:
        return DRAWN[name]()
    if str(name).startswith("hf:"):
        return hub.load(str(name).removeprefix("hf:"))
    if os.path.exists(name):  # False, where Path.exists would raise: too long a name
        return layouts.read(Path(name))
    raise ValueError(
        f"dataset {str(name)!r} is not known; there are "
        f"{', '.join([*BUNDLED, *DRAWN, *(f'hf:{p}' for p in hub.PRESETS)])}, "
        "and the path of any file or folder that exists; `nibkit datasets` lists the layouts"
    )
