"""What a run depends on, as one hash."""

import hashlib
import json
import os
from pathlib import Path

import nbformat

from .parameters import Run


def _content(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def tree(folder: Path, pattern: str) -> list[Path]:
    """Files below folder, sorted, without hidden ones."""
    files = (p for p in folder.rglob(pattern) if p.is_file())
    return sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def fingerprint(run: Run, shared: dict[str, str] | None = None) -> str:
    """Hash of all a run depends on: cell sources, parameters, nibkit/**/*.py, data/**, and files that parameters name.

    Files in code and data/ count by content. A parameter that is the path of an existing file or folder, read from
    notebooks/, counts by name, size and modification time of what is there, so a notebook must not write into one.
    shared: `code_and_data` of the checkout, so that many runs read those files once.
    """
    folder = run.notebook.parent
    named = {}
    for name, value in run.settings.items():
        if name != "out" and isinstance(value, str) and value and os.path.exists(folder / value):
            path = folder / value
            for file in tree(path, "*") if path.is_dir() else [path]:
                stat = file.stat()
                named[os.path.relpath(file, folder)] = [stat.st_size, stat.st_mtime_ns]
    parts = {
        "cells": [[cell.cell_type, cell.source] for cell in nbformat.read(run.notebook, as_version=4).cells],
        "parameters": {name: value for name, value in run.settings.items() if name != "out"},
        "about": run.about,  # names the weights
        "files": named,
        "shared": shared or code_and_data(folder.parent),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_and_data(root: Path) -> dict[str, str]:
    """Content hashes of root/nibkit/**/*.py and root/data/**: path -> SHA-256."""
    files = tree(root / "nibkit", "*.py") + tree(root / "data", "*")
    return {file.relative_to(root).as_posix(): _content(file) for file in files}
