"""Layouts on disk, as people have them. Each is a small function that lists its pairs; no picture is opened."""

import contextlib
import csv
import functools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from . import pictures
from .captions import words_of
from .pairs import DataError, Pair, PairDataset, string

LAYOUTS = {  # path -> what it is, and the name that the dataset gets
    "cc.csv": ("Conceptual Captions as the authors' code reads it: caption, file_path", "conceptual_captions"),
    "en_val.json": ("Flickr8k as that code reads it: a list of {image, caption: [5]}", "flickr8k"),
    "tiny-imagenet-200/": ("its val: five pictures a class, \"a photo of a \" + the line of words.txt", "tiny-imagenet"),
    "rsicd.csv": ("remote sensing: image, text", "rsicd"),
    "FOLDER/": ("pictures of yours with captions.csv: image, text", "the folder's"),
    "FILE.csv": ("image, text, perhaps mask (and objects) or boxes", "the file's"),
    "FILE.json": ("Karpathy's form, its part \"test\", or a list as en_val.json", "its \"dataset\", or the file's"),
}
IMAGE = ("image", "file_path", "file_name", "filename")  # columns that may hold the picture's path ...
TEXT = ("text", "caption")  # ... and the caption
READ = (*IMAGE, *TEXT, "mask", "objects", "boxes")
NAMES = {"cc.csv": "conceptual_captions", "en_val.json": "flickr8k"}
LISTS = ("captions.csv", "metadata.csv", "en_val.json")  # what makes a folder a dataset
BESIDE = ("", "images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset")  # where pictures lie, seen from their list
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
        lists = [path / file for file in LISTS if (path / file).exists()]
        if not lists:
            raise DataError(f"{path} holds none of {', '.join(LISTS)}, words.txt: it is not a dataset; {_instead(path)}")
        return read(lists[0], name)
    if path.suffix.lower() == ".csv":
        folder_named = path.name in LISTS
        stem = NAMES.get(path.name, path.resolve().parent.name if folder_named else path.stem)
        return PairDataset(name or stem, _numbered(stem, _csv(path)))
    if path.suffix.lower() == ".json":
        content = _json(path)
        called = string(content.get("dataset"), f'{path}: "dataset"') if isinstance(content, dict) else ""
        stem = NAMES.get(path.name, called or path.stem)
        return PairDataset(name or stem, _numbered(stem, _listed(path, content)))
    raise DataError(f"{path} is neither a CSV file, a JSON file nor a folder")


def discover(folder: Path) -> dict[str, Path]:
    """The paper's data sets (and rsicd) in `folder` or one folder below: name -> path to `load`, in the paper's order.

    ValueError where there is none, or where two files could be the same set.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the one that holds {', '.join(sum(FOUND_BY.values(), ()))}")
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
    if not found:
        wanted = ", ".join(sum(FOUND_BY.values(), ()))
        raise ValueError(f"{folder} and the folders in it hold none of {wanted}; data/README.md says how to get them")
    return found


def _instead(folder: Path) -> str:
    with contextlib.suppress(ValueError):  # there is none
        if found := [f"{path} ({name})" for name, path in discover(folder).items() if path != folder]:
            return f"in it are {', '.join(found)}: give one of them"
    return "give a file in it, or write captions.csv (image, text) into it"


# --- the layouts -------------------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[dict]:
    """Any CSV file: a column of IMAGE, one of TEXT, and perhaps mask (with objects) or boxes; others are ignored.

    mask: path of a picture; with objects (names with spaces between), value k is the k-th of them (values of one name are
    joined), without, all that is not 0 is "object". boxes: corners x0 y0 x1 y1 in pixels, one box after the other, with
    any signs between the numbers.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            # strict: else an open quote swallows the rows behind it
            reader = csv.DictReader(file, restval="", strict=True, skipinitialspace=True)
            rows, columns = list(reader), reader.fieldnames or []
    except csv.Error as error:
        advice = 'close every quote, and double those within a "quoted" cell'
        raise DataError(f"{path} cannot be read as a CSV file behind line {reader.line_num}: {error}; {advice}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}") from error
    if twice := [column for column in columns if column in READ and columns.count(column) > 1]:
        raise DataError(f"{path} has {len(twice)} columns of one name, {', '.join(twice)}; leave one of each")
    image, text = (next((c for c in names if c in columns), None) for names in (IMAGE, TEXT))
    for column, names in ((image, IMAGE), (text, TEXT)):
        if not column:
            raise DataError(f"{path} has no column {' or '.join(names)}, only {', '.join(columns) or 'none'}")
    for i, row in enumerate(rows, 1):
        where = f"{path}: row {i}"
        if any(cell.strip() for cell in row.get(None, ())):  # what no column takes
            cells = len(columns) + len(row[None])
            raise DataError(f'{where} has {cells} cells, the head {len(columns)}; put captions with commas in "quotes"')
        picture, objects = _picture(path.parent, row[image], where), (row.get("objects") or "").split()
        pair = {"text": row[text], "read_image": picture, "words": words_of(row[text], objects)}
        if row.get("mask"):
            mask = _inside(path.parent, row["mask"], where)
            pair["read_masks"] = functools.partial(_masks, mask, objects, picture)
        elif row.get("boxes"):
            pair["read_masks"] = functools.partial(_boxes, row["boxes"], picture, where)
        yield pair


def _listed(path: Path, content) -> Iterator[dict]:
    """en_val.json, or Karpathy's form: of the latter the part "test" where there is one."""
    entries = content.get("images") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f'{path} is neither a list of {{"image", "caption"}} nor {{"images": [...]}}, Karpathy\'s form')
    test = [entry for entry in entries if entry.get("split") == "test"]
    for i, entry in enumerate(test or entries, 1):
        where = f"{path}: entry {i}"
        image, folder, file = (string(entry.get(key), f'{where}: "{key}"') for key in ("image", "filepath", "filename"))
        captions = _captions(entry, where)
        several = {"captions": captions} if len(captions) > 1 else {}
        picture = _picture(path.parent, image or os.path.join(folder, file), where)
        yield {"text": captions[0] if captions else "", "read_image": picture, **several}


def _captions(entry: dict, where: str) -> tuple[str, ...]:
    """Its "caption", one or a list, or else the "raw" of each of its "sentences"; null is as not there."""
    captions = entry.get("caption")
    if captions in (None, ""):
        sentences = entry.get("sentences") or []
        if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
            raise DataError(f'{where}: "sentences" is not a list of {{"raw": caption}}; give a plain list of captions as "caption"')
        captions = [sentence.get("raw") for sentence in sentences]
    captions = captions if isinstance(captions, list) else [captions]
    return tuple(string(caption, f"{where}: a caption") for caption in captions if caption is not None)


def _tiny_imagenet(folder: Path) -> list[Pair]:
    """val as it comes (val_annotations.txt) or sorted into a folder a class; classes and file names in order of the alphabet."""
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt"))
    classes, notes = defaultdict(list), folder / "val" / "val_annotations.txt"
    if notes.exists():
        for line in _lines(notes):
            file, wnid = line.split("\t")[:2]
            classes[wnid].append(_inside(folder / "val" / "images", file, str(notes)))
    else:
        for path in (folder / "val").glob("n*/**/*.JPEG"):
            classes[path.relative_to(folder / "val").parts[0]].append(path)
    if not classes:
        raise DataError(f"{folder} has neither val/val_annotations.txt nor pictures in val/WNID/: unpack the archive again")
    if unknown := sorted(classes.keys() - words.keys()):
        raise DataError(f"{folder / 'words.txt'} has no line for {unknown[0]}, a class of val; take the archive's own words.txt")
    chosen = [(path, wnid) for wnid in sorted(classes) for path in sorted(classes[wnid])[:PER_CLASS]]
    return [
        Pair(f"tiny-imagenet/{path.stem}", f"a photo of a {words[wnid]}", functools.partial(pictures.read, path))
        for path, wnid in chosen
    ]


# --- parts of them -----------------------------------------------------------------------------------------------


def _numbered(stem: str, pairs: Iterable[dict]) -> list[Pair]:
    return [Pair(id=f"{stem}/{i:04d}", **pair) for i, pair in enumerate(pairs)]


def _json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as a JSON file: {error}") from error


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if "\t" in line]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _inside(folder: Path, cell: str, where: str) -> Path:
    """The path that a list names, refused where it leads out of the list's folder. A link in that folder is its owner's."""
    folder = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(folder, cell))
    if os.path.commonpath([folder, path]) != folder:
        raise DataError(f"{where} names {cell!r}, outside its own folder; give a path inside it")
    return Path(path)


def _picture(folder: Path, cell: str, where: str):
    """A reader for the picture that a list names, wherever of BESIDE it lies."""
    if not cell:
        return functools.partial(_no_picture, where)
    paths = [_inside(folder, os.path.join(beside, cell), where) for beside in BESIDE]
    return functools.partial(pictures.read, next(filter(os.path.exists, paths), paths[0]))


def _no_picture(where: str) -> Image.Image:
    raise DataError(f"{where} names no picture; fill it in or take it out")


def _masks(path: Path, names: list[str], read_image) -> dict[str, np.ndarray]:
    image = pictures.opened(path)
    values = np.asarray(image if image.mode in ("1", "L", "P") else image.convert("L"))
    if values.shape != (size := read_image().size)[::-1]:
        raise DataError(f"{path} is {values.shape[1]} x {values.shape[0]}, its picture {size[0]} x {size[1]}; make them one size")
    if not names:
        return {"object": values != 0}
    return {name: np.isin(values, [k for k, other in enumerate(names, 1) if other == name]) for name in names}


def _boxes(cell: str, read_image, where: str) -> dict[str, np.ndarray]:
    numbers = [round(float(number)) for number in re.findall(r"-?\d+(?:\.\d+)?", cell)]
    width, height = read_image().size
    mask = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in zip(*[iter(numbers)] * 4):
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise DataError(f"{where}: the box {x0} {y0} {x1} {y1} is not inside its picture of {width} x {height}")
        mask[y0:y1, x0:x1] = True
    if not numbers or len(numbers) % 4:
        raise DataError(f"{where}: {cell!r} is not boxes: four numbers each, x0 y0 x1 y1 in pixels")
    return {"object": mask}
