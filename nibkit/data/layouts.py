"""Layouts on disk, as people have them. Each is a small function that lists its pairs; no picture is opened."""

import contextlib
import functools
import itertools
from collections import defaultdict
from pathlib import Path

from ..checks import one_line
from . import entries, hub, lists, pictures
from .hub import A_PHOTO
from .pairs import DataError, Pair, PairDataset

LAYOUTS = {  # path -> what it is, and the name that the dataset gets
    "cc.csv": ("Conceptual Captions as the authors' code reads it: caption, file_path", "conceptual_captions"),
    "en_val.json": ("Flickr8k as that code reads it: a list of {image, caption: [5]}", "flickr8k"),
    "tiny-imagenet-200/": ('its val: five pictures a class, "a photo of a " + the line of words.txt', "tiny-imagenet"),
    "rsicd.csv": ("remote sensing: image, text", "rsicd"),
    "FOLDER/": ("pictures of yours with captions.csv or metadata.jsonl: image, text; or .tar files", "the folder's"),
    "FILE.csv, .tsv": ("image, text, perhaps mask (and objects) or boxes; any usual separator", "the file's"),
    "captions.txt": ("Flickr8k as Kaggle has it: image, caption, five rows a picture", "the folder's"),
    "FILE.json": (
        "Karpathy's form, its part test; COCO's captions; a list as en_val.json",
        "its dataset, or the file's",
    ),
    "FILE.jsonl": ("the same keys as in a table, an object a line", "the file's"),
    "FILE.tar": ("WebDataset: 1.jpg beside 1.txt, or beside 1.json with a caption", "the file's"),
}
NAMES = {"cc.csv": "conceptual_captions", "en_val.json": "flickr8k"}
LISTS = (  # what makes a folder a dataset
    "captions.csv", "metadata.csv", "captions.tsv", "captions.txt", "captions.jsonl", "metadata.jsonl", "en_val.json",
)
SEVERAL = ("captions.txt", "results.csv")  # Kaggle's Flickr8k and Flickr30k: a row a caption, a picture's in a row
PER_CLASS = 5
# What `discover` looks for: name -> files or folders, the authors' own first.
FOUND_BY = {
    "conceptual_captions": ("cc.csv",),
    "tiny-imagenet": ("tiny-imagenet-200",),
    "flickr8k": ("en_val.json", "dataset_flickr8k.json"),
    "rsicd": ("rsicd.csv", "dataset_rsicd.json"),
}


def read(path: Path, name: str | None = None) -> PairDataset:
    """The dataset at `path`; name: what to call it, where not as LAYOUTS says. DataError: see `nibkit.data.load`."""
    if path.is_dir() and (path / "words.txt").exists():
        return PairDataset(name or "tiny-imagenet", _tiny_imagenet(path))
    if path.is_dir():
        if found := [path / file for file in LISTS if (path / file).exists()]:
            return read(found[0], name)
        if tars := sorted(path.glob("*.tar")):
            return hub.archives(tars, name or one_line(path.resolve().name))
        known = ", ".join((*LISTS, "words.txt", "*.tar"))
        raise DataError(f"{path} holds none of {known}: it is not a dataset; {_instead(path)}")
    if path.suffix.lower() == ".tar":
        return hub.archives([path], name or one_line(path.stem))
    called, found = lists.read(path)
    named = path.resolve().parent.name if path.name in LISTS else path.stem
    stem = one_line(NAMES.get(path.name, called or named))
    pairs = [entries.pair(path, where, entry) for where, entry in (_grouped(found) if path.name in SEVERAL else found)]
    return PairDataset(name or stem, [Pair(id=f"{stem}/{i:04d}", **pair) for i, pair in enumerate(pairs)])


def _grouped(found: lists.Entries) -> lists.Entries:
    """Rows of one picture that follow one another -> one entry with all their captions."""
    key, text = (next((k for k in names if found and k in found[0][1]), "") for names in (lists.IMAGE, lists.TEXT))
    groups = (list(group) for _, group in itertools.groupby(found, lambda entry: entry[1].get(key)))
    return [(group[0][0], group[0][1] | {text: [entry[text] for _, entry in group]}) for group in groups]


def discover(folder: Path) -> dict[str, Path]:
    """The paper's data sets (and rsicd) in `folder` or one folder below: name -> path to `load`, in the paper's order.

    {} where there is none. ValueError where two files could be the same set.
    """
    found = {}
    for name, files in FOUND_BY.items():
        for file in files:
            places = [*folder.glob(file), *sorted(folder.glob(f"*/{file}"))]
            if folder.name == file:
                places.append(folder)
            if len(places) > 1:
                raise ValueError(f"{places[0]} and {places[1]} could both be {name}; give the folder of one of them")
            if places:
                found[name] = places[0]
                break
    return found


def _instead(folder: Path) -> str:
    with contextlib.suppress(ValueError):  # two could be the same
        if found := [f"{path} ({name})" for name, path in discover(folder).items() if path != folder]:
            return f"in it are {', '.join(found)}: give one of them"
    if below := sorted(str(path.parent) for file in LISTS for path in folder.glob(f"*/{file}")):
        return f"in it are {', '.join(below)}: give one of them"
    return "give a file in it, or write captions.csv (image, text) into it (data/README.md has the paper's sets)"


# --- the layouts -------------------------------------------------------------------------------------------------


def _tiny_imagenet(folder: Path) -> list[Pair]:
    """val as it comes (val_annotations.txt) or sorted into a folder a class; classes and file names in order of the
    alphabet.
    """
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt"))
    classes, notes = defaultdict(list), folder / "val" / "val_annotations.txt"
    if notes.exists():
        for line in _lines(notes):
            file, wnid = line.split("\t")[:2]
            classes[wnid].append(entries.located(folder / "val" / "images", file, str(notes)))
    else:
        for path in (folder / "val").glob("n*/**/*.JPEG"):
            classes[path.relative_to(folder / "val").parts[0]].append(path)
    if not classes:
        raise DataError(
            f"{folder} has neither val/val_annotations.txt nor pictures in val/WNID/: unpack the archive again"
        )
    if unknown := sorted(classes.keys() - words.keys()):
        raise DataError(
            f"{folder / 'words.txt'} has no line for {unknown[0]}, a class of val; take the archive's own words.txt"
        )
    chosen = [(path, wnid) for wnid in sorted(classes) for path in sorted(classes[wnid])[:PER_CLASS]]
    return [
        Pair(f"tiny-imagenet/{one_line(path.stem)}", A_PHOTO + words[wnid], functools.partial(pictures.read, path))
        for path, wnid in chosen
    ]


def _lines(path: Path) -> list[str]:
    return [line for line in lists.text(path).splitlines() if "\t" in line]
