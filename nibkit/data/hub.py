"""What the `datasets` library reads: the Hugging Face hub's sets, fetched once or streamed, and WebDataset's
archives.
"""

import contextlib
import functools
import itertools
import re
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..checks import one_line
from ..paths import WAIT, install
from . import pictures
from .lists import TEXT
from .pairs import DataError, Pair, PairDataset, string

A_PHOTO = "a photo of a "  # the published prompt, before the name of a class


class Preset(NamedTuple):
    """name: the hub's; text: the column(s) of the captions; stream: rows taken, 0 for all; per_class: first rows of
    each.
    """

    name: str
    split: str
    image: str
    text: str
    stream: int = 0
    per_class: int = 0


PRESETS = {
    "conceptual_captions": Preset("pixparse/cc3m-wds", "validation", "jpg", "txt", stream=2000),
    "tiny-imagenet": Preset("zh-plus/tiny-imagenet", "valid", "image", "label", per_class=5),
    "flickr8k": Preset("jxie/flickr8k", "test", "image", "caption_0+caption_1+caption_2+caption_3+caption_4"),
    "rsicd": Preset("arampacha/rsicd", "test", "image", "captions"),
}


def load(name: str) -> PairDataset:
    """A name of PRESETS, or "NAME,SPLIT,IMAGE,TEXT" with an optional ",N": stream the first N rows instead of fetching
    all.

    NAME: an id on the hub, or a folder of parquet or arrow files. IMAGE, TEXT: names of columns; a text column may hold
    one caption, a list of captions, or a class (the caption is then "a photo of a CLASS"); several columns are joined
    by +. DataError where the set, the split or a column is not there, or there is no network.
    """
    if name in PRESETS:
        return fetch(*PRESETS[name], called=name)
    parts = name.split(",")
    if len(parts) not in (4, 5) or not all(parts) or not all(re.fullmatch("[0-9]{1,9}", n) for n in parts[4:]):
        forms = "hf:NAME,SPLIT,IMAGE,TEXT, or with ,N behind it"
        raise DataError(f"hf:{name} is neither one of {', '.join(PRESETS)} nor of the form {forms}")
    return fetch(*parts[:4], stream=int(parts[4]) if parts[4:] else 0)


def fetch(
    name: str, split: str, image: str, text: str, stream: int = 0, per_class: int = 0, called: str | None = None
) -> PairDataset:
    """The pairs of one split; arguments as in `Preset` and `load`, called: the dataset's name here, else the last of
    `name`.
    """
    datasets = _library()
    called = one_line(called or Path(name).name)
    folder = Path(name)
    try:
        if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():  # save_to_disk
            rows = datasets.load_from_disk(name)
            rows = rows[split] if isinstance(rows, datasets.DatasetDict) else rows
        else:
            with contextlib.nullcontext() if folder.exists() else _promptly(name):
                rows = datasets.load_dataset(name, split=split, streaming=bool(stream))
        if stream and rows.features is None:
            rows = rows._resolve_features()
    except Exception as error:  # the library, its readers and the network raise many kinds
        raise DataError(
            f"hf:{name}, split {split!r}, could not be loaded ({_reason(error)}); without network, load it "
            "once where there is one, save it there with datasets.load_dataset(...).save_to_disk(FOLDER), copy FOLDER "
            "here and load 'hf:FOLDER,SPLIT,IMAGE,TEXT'; or take a layout of data/README.md"
        ) from error
    for column in (image, *text.split("+")):
        if column not in rows.features:
            raise DataError(f"hf:{name} has no column {column!r}, only {', '.join(rows.features)}")
    if not isinstance(rows.features[image], datasets.Image):
        raise DataError(f"hf:{name}: the column {image!r} holds {rows.features[image]}, not pictures")
    return PairDataset(called, _pairs(rows, image, text.split("+"), called, f"hf:{name}", stream, per_class))


def archives(paths: list[Path], called: str) -> PairDataset:
    """The pairs of WebDataset's .tar files, in order: a picture, and its caption in .txt or under a key of .json.

    DataError where they are not to be read, or their first five pairs do not have the same parts.
    """
    datasets, where = _library(), one_line(paths[0])
    try:
        rows = datasets.load_dataset("webdataset", data_files={"train": [str(path) for path in paths]}, split="train")
    except Exception as error:  # as above
        raise DataError(f"{where} cannot be read as a WebDataset archive ({_reason(error)})") from error
    image = next((name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)), None)
    said = rows.features.get("json")
    inside = next((f"json.{key}" for key in TEXT if isinstance(said, dict) and key in said), None)
    text = next((name for name in ("txt", "text", "caption") if name in rows.features), inside)
    if not image or not text:
        what = "captions (.txt, or .json with one)" if image else "pictures"
        there = ", ".join(name for name in rows.features if not name.startswith("__"))
        raise DataError(f"{where} holds no {what}, only {there}")
    return PairDataset(called, _pairs(rows, image, [text], called, where))


def _library():
    try:
        import datasets
    except ImportError as error:
        what = "data sets of the hub and .tar files need"
        raise ImportError(f"{what} the datasets library; install it with: {install('datasets')}") from error
    return datasets


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _pairs(
    rows, image: str, columns: list[str], called: str, where: str, stream: int = 0, per_class: int = 0
) -> list[Pair]:
    """A pair per row; columns: of captions, or of classes, "json.caption" being a key of the column "json"."""
    names = getattr(rows.features.get(columns[0]), "names", None)
    rows = rows.cast_column(image, _library().Image(decode=False))  # decoded by `pictures`, as all pictures are
    tops = list(dict.fromkeys(column if column in rows.features else column.partition(".")[0] for column in columns))
    if stream:
        rows = texts = _streamed(rows, stream, [image, *tops], where)
    else:
        texts = rows.select_columns(tops)
    pairs, seen = [], {}
    for i, row in enumerate(texts):
        said = [_cell(row, column) for column in columns]
        value = said[0]
        seen[value if names else i] = count = seen.get(value if names else i, 0) + 1
        if per_class and count > per_class:
            continue
        if names:  # a class that is not known is None or -1 there
            captions = [] if value is None or value < 0 else [A_PHOTO + _spelt(names[value])]
        else:
            captions = _captions(said, f"{where}, {'+'.join(columns)}")
        several = {"captions": captions} if len(captions) > 1 else {}
        label = f"{called}/{i:04d}"
        read = functools.partial(_read, rows, i, image, label)
        pairs.append(Pair(label, captions[0] if captions else "", read, **several))
    return pairs


def _cell(row: dict, column: str):
    top, _, key = column.partition(".")
    return row[column] if column in row else (row[top] or {}).get(key)


@contextlib.contextmanager
def _promptly(name: str):
    """Where the hub does not answer one question, its cache is looked into at once: the libraries would retry for half
    a minute.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    before = huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=WAIT)
    except HfHubHTTPError:  # an answer: the library says it better
        pass
    except Exception:  # each release has another family of them
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = before


def _streamed(rows, n: int, columns: list[str], where: str) -> list[dict]:
    """The first n rows, their pictures as encoded bytes: a stream cannot be gone through twice at the cost of one."""
    try:
        return list(itertools.islice(rows.select_columns(columns), n))
    except Exception as error:
        raise DataError(f"{where} broke off while it was streamed ({_reason(error)}); run it again") from error


def _captions(values: list, where: str) -> tuple[str, ...]:
    texts = itertools.chain.from_iterable(value if isinstance(value, (list, tuple)) else [value] for value in values)
    texts = (text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in texts)
    return tuple(string(text, f"{where}: a caption") for text in texts)


def _spelt(label: str) -> str:
    """A class's name in words; a WordNet id such as n01443537 becomes its whole list of synonyms, as in words.txt."""
    if not re.fullmatch(r"n\d{8}", label):
        return label.replace("_", " ")
    return _wordnet().label_name_to_description(label, detailed=False)


@functools.cache
def _wordnet():
    try:
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise ImportError(
            f"the names of WordNet ids come from timm; install it with: {install('open_clip')}"
        ) from error
    return ImageNetInfo("imagenet22k")


def _read(rows, i: int, column: str, name: str) -> Image.Image:
    cell = rows[i][column]
    if not cell or not (cell.get("bytes") or cell.get("path")):
        raise DataError(f"{name} has no picture")
    return pictures.read(cell["bytes"] or Path(cell["path"]), name)
