"""The API reference: every public name says what it is, every example in it runs, and pdoc turns it into pages."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import warnings
from pathlib import Path

import pytest

import nibkit

ROOT = Path(__file__).parent.parent
MODULES = ["nibkit"] + [
    m.name for m in pkgutil.walk_packages(nibkit.__path__, "nibkit.") if not m.name.endswith("__main__")
]


def public(module):
    """Qualified name and object of what a module defines; what a class overrides has the docstring of its base."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield name, thing
        if inspect.isclass(thing):
            for part, value in vars(thing).items():
                if not part.startswith("_") and isinstance(
                    value, (property, classmethod, staticmethod)
                ) | inspect.isfunction(value):
                    yield f"{name}.{part}", getattr(thing, part)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented_and_every_example_runs(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    assert [what for what, thing in public(module) if not inspect.getdoc(thing)] == []
    assert doctest.testmod(module).failed == 0


def test_the_key_functions_have_examples():
    finder = doctest.DocTestFinder()
    shown = {test.name for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples}
    assert shown >= {"nibkit.explain", "nibkit.models.clip.load", "nibkit.data.load", "nibkit.attribution.Attribution"}


def test_pdoc_makes_a_page_of_every_module(tmp_path):
    pdoc = pytest.importorskip("pdoc", reason="pdoc is not installed: pip install '.[docs]'")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert all(hasattr(nibkit, name) for name in nibkit.__all__)  # imports them, as EAGER_IMPORT does
        command = subprocess.run(
            ["make", "-n", "docs"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
        ).stdout
        named = re.search(r"-m pdoc nibkit '!nibkit\[.\]' (.*) --output-directory", command)[1].split()
        pdoc.pdoc("nibkit", "!nibkit[.]", *named, output_directory=tmp_path)
    pages = {
        page.relative_to(tmp_path).as_posix(): page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")
    }
    assert {name.replace(".", "/") + ".html" for name in MODULES if "._" not in name} <= pages.keys()
    linked = set(re.findall(r'href="(?:\./)?(nibkit/\w+)\.html', pages["nibkit.html"]))
    assert linked >= {name.replace(".", "/") for name in MODULES if name.count(".") == 1}
