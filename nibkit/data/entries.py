"""An entry of a list -> what a `Pair` is made of: captions, words, and readers of its picture and masks."""

import functools
import math
import os
import re
import reprlib
from pathlib import Path

import numpy as np
from PIL import Image

from . import pictures
from .captions import words_of
from .lists import IMAGE, TEXT
from .pairs import DataError, string

BESIDE = ("", "images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset")  # where pictures lie, seen from their list
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def pair(path: Path, where: str, entry: dict) -> dict:
    """Text, readers, words and captions of an entry (lists.read) of the list at `path`; other keys are ignored.

    mask: path of a picture; with objects (names with spaces between, or a list), value k is the k-th of them (values of
    one name are joined), without, all that is not 0 is "object". boxes: corners x0 y0 x1 y1 in pixels, one box after
    another, with spaces, commas, semicolons or brackets between the numbers. DataError: as `nibkit.data.load` has it.
    """
    said, objects = captions(entry, where), entry.get("objects") or ""
    read_image = _picture(path, _named(entry, where), where)
    objects = objects.split() if isinstance(objects, str) else objects
    if not isinstance(objects, list) or not all(isinstance(name, str) for name in objects):
        if entry.get("mask"):
            raise DataError(f'{where}: "objects" is {reprlib.repr(objects)}; give names with spaces between')
        objects = []  # another's, not ours
    text = said[0] if said else ""
    found = {"text": text, "read_image": read_image, "words": words_of(text, objects)}
    if len(said) > 1:
        found["captions"] = said
    if entry.get("mask"):
        mask = located(path.parent, string(entry["mask"], f'{where}: "mask"'), where)
        found["read_masks"] = functools.partial(_masks, mask, objects, read_image)
    elif entry.get("boxes"):
        found["read_masks"] = functools.partial(_boxes, str(entry["boxes"]), read_image, where)
    return found


def captions(entry: dict, where: str) -> tuple[str, ...]:
    """What the first key of TEXT says that says anything: captions, Karpathy's sentences or LLaVA's answer."""
    key = next((key for key in TEXT if entry.get(key) not in (None, "", [])), None)
    said = entry.get(key) or []
    if key == "sentences":
        if not isinstance(said, list) or not all(isinstance(sentence, dict) for sentence in said):
            raise DataError(
                f'{where}: "sentences" is not a list of {{"raw": caption}}; give a plain list of captions as "caption"'
            )
        said = [sentence.get("raw") for sentence in said]
    elif key == "conversations":
        turns = (
            [turn.get("from") if isinstance(turn, dict) else None for turn in said] if isinstance(said, list) else []
        )
        if turns != ["human", "gpt"]:
            raise DataError(
                f'{where}: "conversations" is not one question and one answer; give the text to score as "caption"'
            )
        said = said[1].get("value")
    said = said if isinstance(said, list) else [said]
    return tuple(string(caption, f"{where}: a caption") for caption in said if caption is not None)


def located(folder: Path, cell: str, where: str, beside: tuple[str, ...] = ("",)) -> Path:
    """Where the file that a list names is, of the places `beside`; Windows' \\ is read as / where that finds it.

    DataError where the name leads out of the folder. A link in the folder is its owner's, and is followed.
    """
    root, paths = os.path.abspath(folder), []
    for name in dict.fromkeys((cell, cell.replace("\\", "/"))):
        for place in beside:
            path = os.path.normpath(os.path.join(root, place, name))
            if os.path.commonpath([root, path]) != root:
                raise DataError(f"{where} names {cell!r}, outside its own folder; give a path inside it")
            paths.append(path)
    return Path(next(filter(os.path.exists, paths), paths[0]))


def _named(entry: dict, where: str) -> str:
    """The picture's file; in Karpathy's form, "filepath" is its folder."""
    key = next((key for key in IMAGE if entry.get(key)), "image")
    file, folder = string(entry.get(key), f'{where}: "{key}"'), ""
    if key in ("filename", "file_name"):
        folder = string(entry.get("filepath"), f'{where}: "filepath"')
    return folder if os.path.basename(folder) == file else os.path.join(folder, file)


def _picture(path: Path, cell: str, where: str):
    """A reader for the picture that the list at `path` names, wherever of BESIDE it is; COCO's: beside annotations/."""
    if not cell:
        return functools.partial(_no_picture, where)
    folder, beside = path.parent, BESIDE
    if folder.resolve().name == "annotations":
        folder, beside = folder.resolve().parent, (path.stem.rpartition("_")[2], "annotations", *BESIDE)
    return functools.partial(pictures.read, located(folder, cell, where, beside))


def _no_picture(where: str) -> Image.Image:
    raise DataError(f"{where} names no picture; fill it in or take it out")


def _masks(path: Path, names: list[str], read_image) -> dict[str, np.ndarray]:
    image = pictures.opened(path)
    values = np.asarray(image if image.mode in ("1", "L", "P") or image.mode.startswith("I") else image.convert("L"))
    if values.shape != (size := read_image().size)[::-1]:
        raise DataError(
            f"{path} is {values.shape[1]} x {values.shape[0]}, its picture {size[0]} x {size[1]}; make them one size"
        )
    if not names:
        return {"object": values != 0}
    return {name: np.isin(values, [k for k, other in enumerate(names, 1) if other == name]) for name in names}


def _boxes(cell: str, read_image, where: str) -> dict[str, np.ndarray]:
    numbers = [float(number) for number in NUMBER.findall(cell)]
    if not numbers or len(numbers) % 4 or NUMBER.sub("", cell).strip(" \t\r\n,;()[]"):
        raise DataError(f"{where}: {cell[:60]!r} is not boxes: four numbers each, x0 y0 x1 y1 in pixels")
    width, height = read_image().size
    mask = np.zeros((height, width), bool)
    for corners in zip(*[iter(numbers)] * 4):
        x0, y0, x1, y1 = (round(n) if math.isfinite(n) else n for n in corners)
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise DataError(
                f"{where}: the box {x0:g} {y0:g} {x1:g} {y1:g} is not inside its picture of {width} x {height}"
            )
        mask[y0:y1, x0:x1] = True
    return {"object": mask}
