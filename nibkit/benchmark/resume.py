"""The file of a run: rows appended batch by batch, and what is needed to go on after it was killed."""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..paths import SETTINGS, replace
from .plan import FIRST, columns, identities

INSTEAD = "choose another file or delete it"


class Rows:
    """The rows of a run, in memory and in `file`: rows of an earlier run of the same `settings` are there already, a
    half-written last line cut off.

    numbers: the metrics' and the cost's columns. texts: pair -> its text. found: (pair, label) -> row, without what
    `identities` says of the label. asked: (pair, label) of the rows that are asked for; those of them that had failed
    are not found. ValueError for a file that other settings, other texts or another program made.
    """

    def __init__(self, file: Path, numbers: list[str], settings: dict, texts: dict[str, str]):
        self.file, self.numbers = file, numbers
        settings = json.loads(json.dumps(settings, default=_plain))
        self.asked = [(pair, label) for pair in texts for label in settings["methods"]]
        self._mine = identities(settings["methods"])
        content = file.read_bytes() if file.exists() else b""
        header = ",".join(columns(self._mine, numbers)) + "\n"
        new = header.encode().startswith(content)  # nothing is in it yet but (a part of) our header
        if not new:
            settings["methods"] = _merged(file, settings)
        self._who = identities(settings["methods"])
        header, self.found = ([], {}) if new else self._read(content[: content.rfind(b"\n") + 1], texts)
        file.parent.mkdir(parents=True, exist_ok=True)
        replace(_beside(file), lambda part: part.write_text(json.dumps(settings, indent=1), encoding="utf-8"))
        if header == columns(self._who, numbers):
            os.truncate(file, content.rfind(b"\n") + 1)
        else:  # new, or labels differ in other options than before
            self.save()

    def _read(self, content: bytes, texts: dict[str, str]) -> tuple[list[str], dict[tuple[str, str], dict]]:
        found, last = {}, [*self.numbers, "error"]
        try:
            rows = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
            header = rows.fieldnames or []
            if header[: len(FIRST) + 1] != [*FIRST, "method"] or header[-len(last) :] != last:
                raise ValueError(f"its columns are {', '.join(header)}")
            for row in rows:
                numbers = {key: float(row[key] or "nan") for key in self.numbers}  # pandas leaves nan empty
                found[row["pair"], row["label"]] = {key: row[key] for key in [*FIRST, "error"]} | numbers
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{self.file} is not a table of this run: {error}; {INSTEAD}") from None
        asked = set(self.asked)
        found = {key: row for key, row in found.items() if not row["error"] or key not in asked}
        for (pair, _), row in found.items():
            was = row["text"]
            if not row["error"] and (text := texts.get(pair, was)) != was:
                said = f"{self.file} holds pair {pair!r} with the text {was!r}, the data set now says {text!r}"
                raise ValueError(f"{said}; {INSTEAD}")
        return header, found

    def lacking(self, pairs: Sequence) -> set[tuple[str, str]]:
        """(pair, label) of the rows of `pairs` that are asked for and not found."""
        return {(str(pair.id), label) for pair in pairs for label in self._mine} - self.found.keys()

    def append(self, rows: Iterable[dict]) -> int:
        """Those that are new, here and at the end of the file; returns how many."""
        new = {key: row for row in rows if (key := (row["pair"], row["label"])) not in self.found}
        self._write(self.file, new.values(), "a")
        self.found |= new
        return len(new)

    def save(self) -> None:
        """The file anew, what was asked for in front."""
        self.found = {key: self.found[key] for key in self.asked if key in self.found} | self.found
        replace(self.file, lambda part: self._write(part, self.found.values(), "w"))

    def table(self) -> pd.DataFrame:
        """The rows that were asked for."""
        rows = [{**self.found[key], **self._mine[key[1]]} for key in self.asked]
        return pd.DataFrame(rows, columns=columns(self._mine, self.numbers))

    def _write(self, file: Path, rows: Iterable[dict], mode: str) -> None:
        """They are on the disk when this returns. What failed is nan."""
        with open(file, mode, encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, columns(self._who, self.numbers), restval="nan", lineterminator="\n")
            if mode == "w":
                writer.writeheader()
            writer.writerows({**row, **self._who[row["label"]]} for row in rows)
            stream.flush()
            os.fsync(stream.fileno())


def _merged(file: Path, settings: dict) -> dict:
    """The methods of the run that made `file` and those of this one; ValueError where they do not go together."""
    try:
        known = json.loads(_beside(file).read_text(encoding="utf-8"))
        methods = {label: settings["methods"].get(label, was) for label, was in known["methods"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{file} has no {_beside(file).name} beside it that says how it was made; {INSTEAD}") from None
    if "metrics" not in known:
        raise ValueError(
            f"{file} was made by an earlier nibkit, whose rows do not say what their labels are; {INSTEAD}"
        )
    for key, value in {**settings, "methods": methods}.items():
        if (was := known.get(key)) != value:
            raise ValueError(f"{file} was made with {key} = {was}, not {value}; {INSTEAD}")
    return known["methods"] | settings["methods"]


def _beside(file: Path) -> Path:
    return file.with_name(file.name + SETTINGS)


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)  # an option may be one of numpy's integers
