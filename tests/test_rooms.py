"""The rooms of the package: what each may import, from the import statements, and how large its parts may be."""

import ast
from pathlib import Path

import pytest

import nibkit

PACKAGE = Path(nibkit.__file__).parent
ROOMS = (  # from the ground up: a room knows those before it, and none behind it
    "paths",
    "checks",
    "data",
    "models",
    "attribution",
    "methods",
    "interop",
    "metrics",
    "scenes",
    "benchmark",
    "plots",
    "study",
    "reports",
    "explorer",
    "commands",
)


def imports(file: Path) -> list[str]:
    """The rooms that a file of nibkit imports from, function bodies included."""
    home = list(file.relative_to(PACKAGE).parts[:-1])
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = home[: len(home) + 1 - node.level] + (node.module.split(".") if node.module else [])
            found += [place[0]] if place else [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_those_below_it(room):
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    upward = {
        (file.name, other) for file in files for other in imports(file) if other in ROOMS[ROOMS.index(room) + 1 :]
    }
    assert not upward


def test_every_room_is_listed():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__", "__main__"} == set(ROOMS)


LIMITS = {ast.FunctionDef: 60, ast.AsyncFunctionDef: 60, ast.ClassDef: 200}  # lines, docstring included


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_files_classes_and_functions_can_be_seen_at_once(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    parts = [node for node in ast.walk(ast.parse(text)) if type(node) in LIMITS]
    lines = {node.name: (node.end_lineno - node.lineno + 1, LIMITS[type(node)]) for node in parts}
    assert not {name: size for name, (size, most) in lines.items() if size > most}
