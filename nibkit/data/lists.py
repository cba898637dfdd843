"""Files that list pairs -> their entries, of whatever form: tables, JSON, lines of JSON. No picture is opened."""

import codecs
import csv
import io
import json
import warnings
from collections import defaultdict
from pathlib import Path

from ..paths import long_cells
from .pairs import DataError, string

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
TABLES, LINES = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson")
IMAGE = ("image", "file_path", "file_name", "filename", "filepath", "image_path", "image_name", "path", "img")
TEXT = ("text", "caption", "captions", "title", "comment", "sentences", "conversations")
READ = (*IMAGE, *TEXT, "mask", "objects", "boxes")
MARKS = {  # how a file begins -> its encoding
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

Entries = list[tuple[str, dict]]  # where it stands, for errors; what it says, its keys in lower case


def read(path: Path) -> tuple[str, Entries]:
    """The name that a list gives itself ("" for none) and its entries; one at least names a picture, and one a text.

    DataError for a file that cannot be read, or whose columns or keys are none of IMAGE or none of TEXT.
    """
    suffix, name = path.suffix.lower(), ""
    if suffix in TABLES:
        entries = _table(path)
    elif suffix in LINES:
        entries = _lines(path)
    elif suffix == ".json":
        name, entries = _json(path)
    else:
        raise DataError(
            f"{path} is neither a folder nor a list of pairs: {', '.join([*TABLES, *LINES, '.json', '.tar'])}"
        )
    keys = list(dict.fromkeys(key for _, entry in entries for key in entry if key))
    if entries and suffix not in TABLES:  # of a table it is known before its rows are read
        _both_named(path, keys, "key")
    return name, entries


def text(path: Path) -> str:
    """A file as text: UTF-8, UTF-16 or -32 by its mark; with a warning, Windows' cp1252 and UTF-16 without a mark."""
    try:
        if not path.is_file():
            raise OSError("it is a folder, a pipe or a device, not a file")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    marked = next((encoding for mark, encoding in MARKS.items() if content.startswith(mark)), None)
    zeros = content[:1] == b"\0", content[1:2] == b"\0"  # a list begins with a letter or sign of ASCII
    encoding = marked or {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(zeros)
    try:
        found = content.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        place = "line " + str(content[: error.start].count(b"\n") + 1)
        if encoding or not content[: error.start].isascii():
            what = f"{path} cannot be read: it is {encoding or 'UTF-8'} but for {place} ({error.reason})"
            raise DataError(f"{what}; save it as UTF-8") from error
        encoding = "cp1252"
        try:
            found = content.decode(encoding)
        except UnicodeDecodeError:
            raise DataError(
                f"{path} cannot be read: {place} is neither UTF-8 nor Windows' cp1252; save it as UTF-8"
            ) from error
    if encoding and not marked:
        warnings.warn(
            f"{path} is not UTF-8 and is read as {encoding}; if letters come out wrong, save it as UTF-8", stacklevel=2
        )
    return found


def _both_named(path: Path, keys: list[str], kind: str) -> None:
    for names, what in ((IMAGE, "a picture"), (TEXT, "a text")):
        if not set(names) & set(keys):
            raise DataError(
                f"{path} has no {kind} for {what}, {' or '.join(names)}, only {', '.join(map(str, keys)) or 'none'}"
            )


def _table(path: Path) -> Entries:
    """Rows under a head; the separator is the one that makes the head name a picture and a text."""
    content = text(path)

    def head(separator: str) -> list[str]:
        try:
            row = next(csv.reader(io.StringIO(content, newline=""), delimiter=separator, skipinitialspace=True), [])
        except csv.Error:
            return []
        return [cell.strip().lower() for cell in row]

    with long_cells():
        heads = {separator: head(separator) for separator in SEPARATORS}
        fits = [s for s, columns in heads.items() if set(columns) & set(IMAGE) and set(columns) & set(TEXT)]
        separator = fits[0] if fits else max(heads, key=lambda s: len(heads[s]))
        columns = heads[separator]
        if twice := [column for column in columns if column in READ and columns.count(column) > 1]:
            raise DataError(f"{path} has {len(twice)} columns of one name, {', '.join(twice)}; leave one of each")
        _both_named(path, columns, "column")
        # strict: else an open quote swallows the rows behind it
        reader = csv.DictReader(
            io.StringIO(content, newline=""), restval="", strict=True, skipinitialspace=True, delimiter=separator
        )
        try:
            reader.fieldnames = columns if reader.fieldnames else []
            rows = list(reader)
        except csv.Error as error:
            advice = 'close every quote, and double those within a "quoted" cell'
            raise DataError(
                f"{path} cannot be read as a table behind line {reader.line_num}: {error}; {advice}"
            ) from error
    for i, row in enumerate(rows, 1):
        beyond = row.pop(None, ())
        if any(cell.strip() for cell in beyond):  # what no column takes
            cells = f"{len(columns) + len(beyond)} cells, the head {len(columns)}"
            raise DataError(f'{path}: row {i} has {cells}; put captions with {SEPARATORS[separator]} in "quotes"')
    return [(f"{path}: row {i}", row) for i, row in enumerate(rows, 1)]


def _lines(path: Path) -> Entries:
    """An object of JSON a line, blank lines aside."""
    entries = []
    for n, line in enumerate(text(path).split("\n"), 1):  # JSON may hold the signs at which splitlines() splits, too
        if line.strip():
            entry = _parsed(line, f"{path}: line {n}")
            if not isinstance(entry, dict):
                raise DataError(f'{path}: line {n} is not an object such as {{"image": "1.jpg", "text": "a cat"}}')
            entries.append((f"{path}: line {n}", _lower(entry)))
    return entries


def _json(path: Path) -> tuple[str, Entries]:
    """A list of objects, or Karpathy's or COCO's form; of the parts that entries name, "test", where there is one."""
    content = _parsed(text(path), str(path))
    form = content if isinstance(content, dict) else {}
    entries = form.get("images") if form else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        known = 'a list of {"image", "caption"} nor {"images": [...]}, Karpathy\'s or, with "annotations", COCO\'s form'
        raise DataError(f"{path} is neither {known}; a file of one object a line is called .jsonl")
    entries = [_lower(entry) for entry in entries]
    if "annotations" in form:
        entries = _joined(path, entries, form["annotations"])
    test = [entry for entry in entries if entry.get("split") == "test"]
    return string(form.get("dataset"), f'{path}: "dataset"'), [
        (f"{path}: entry {i}", e) for i, e in enumerate(test or entries, 1)
    ]


def _joined(path: Path, entries: list[dict], annotations) -> list[dict]:
    """COCO's images, each with the captions of its annotations."""
    if not isinstance(annotations, list) or not all(
        isinstance(note, dict) and "caption" in note for note in annotations
    ):
        raise DataError(
            f"{path}: its annotations hold no captions; take COCO's captions_val2017.json, not its instances"
        )
    known, said = {str(entry.get("id")) for entry in entries}, defaultdict(list)
    for i, note in enumerate(annotations, 1):
        if (image := str(note.get("image_id"))) not in known:
            raise DataError(f"{path}: annotation {i} is of the image {image[:60]}, which is not among its images")
        said[image].append(note["caption"])
    return [entry | {"caption": said[str(entry.get("id"))]} for entry in entries]


def _parsed(content: str, where: str):
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} cannot be read as JSON: {error}") from error


def _lower(entry: dict) -> dict:
    return dict(zip(map(str.lower, entry), entry.values()))
