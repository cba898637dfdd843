"""The file of a run: rows appended batch by batch, and what is needed to go on after it was killed."""

import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..paths import SETTINGS, replace


def resume(
    file: Path, columns: list[str], settings: dict, order: list[tuple[str, str]], texts: dict[str, str]
) -> dict[tuple[str, str], dict]:
    """The rows of `file` that need not be made again, a half-written last line cut off; a new file where there is none.

    order: (pair, label) of the rows that are asked for, of which those that failed are left out; texts: pair -> its text.
    """
    beside, settings = file.with_name(file.name + SETTINGS), json.loads(json.dumps(settings, default=_plain))
    content = file.read_bytes() if file.exists() else b""
    new = (",".join(columns) + "\n").encode().startswith(content)  # nothing is in it yet but (a part of) our header
    content, done, instead = content[: content.rfind(b"\n") + 1], {}, "choose another file or delete it"
    if not new:
        try:
            known = json.loads(beside.read_text(encoding="utf-8"))
            methods = {label: settings["methods"].get(label, was) for label, was in known["methods"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{file} has no {beside.name} beside it that says how it was made; {instead}") from None
        for key, value in {**settings, "methods": methods}.items():
            if (was := known.get(key)) != value:
                raise ValueError(f"{file} was made with {key} = {was}, not {value}; {instead}")
        settings["methods"] = known["methods"] | settings["methods"]
        try:
            rows = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
            if rows.fieldnames != columns:
                raise ValueError(f"its columns are {', '.join(rows.fieldnames or [])}")
            for row in rows:
                numbers = {key: float(row[key] or "nan") for key in columns[4:-1]}  # pandas leaves nan empty
                done[row["pair"], row["method"]] = {key: row[key] for key in columns} | numbers
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{file} is not a table of this run: {error}; {instead}") from None
        for key in order:
            if key in done and done[key]["error"]:
                del done[key]
        for (pair, _), row in done.items():
            was = row["text"]
            if not row["error"] and (text := texts.get(pair, was)) != was:
                raise ValueError(f"{file} holds pair {pair!r} with the text {was!r}, the data set now says {text!r}; {instead}")
    file.parent.mkdir(parents=True, exist_ok=True)
    replace(beside, lambda part: part.write_text(json.dumps(settings, indent=1), encoding="utf-8"))
    if new:
        write(file, columns, [], "w")
    else:
        os.truncate(file, len(content))
    return done


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)  # an option may be one of numpy's integers


def write(file: Path, columns: list[str], rows: Iterable[dict], mode: str) -> None:
    """Append ("a") rows, or start the file anew ("w"); they are on the disk when this returns. What failed is nan."""
    with open(file, mode, encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="nan", lineterminator="\n")
        if mode == "w":
            writer.writeheader()
        writer.writerows(rows)
        stream.flush()
        os.fsync(stream.fileno())
