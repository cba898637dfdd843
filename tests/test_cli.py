"""The command line as a whole: its version, what it may import before it has to, what its hints name."""

import json
import re
import subprocess
import sys
from email.message import Message
from importlib import metadata

import pandas as pd
import pytest

import nibkit
from nibkit import __main__ as cli
from nibkit import paths

ROOT = paths.PACKAGE.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def imported(arguments: list[str]) -> tuple[set[str], str]:
    """Top-level modules that a process of `nibkit` with these arguments has imported, and what it printed."""
    code = (
        "import json, sys\nfrom nibkit.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8", check=True)
    return set(json.loads(done.stdout.splitlines()[-1])), done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--help"], "explain"),
        (["explain", "--help"], "PHOTO"),
        (["reports", "--only", "03", "-p", "n_pears", "3"], "no selected notebook has a parameter 'n_pears'"),
        (["reports", "--model", "ViT-B/32", "-p", "n_pairs", "many"], "n_pairs='many' is not of type int"),
    ],
)
def test_help_and_mistyped_parameters_do_not_wait_for_torch(arguments, said):
    found, text = imported(arguments)
    assert said in text and "PIL" in found
    assert not found & {"torch", "torchvision", "scipy", "matplotlib"}


def test_names_that_come_later_are_those_of_their_modules():
    assert nibkit.METHODS["nib"].__module__ == "nibkit.methods.nib" and nibkit.metrics.drops.columns
    assert nibkit.load is nibkit.models.load and nibkit.Attribution is nibkit.attribution.Attribution
    with pytest.raises(AttributeError, match="module 'nibkit' has no attribute 'lod'"):
        nibkit.lod  # noqa: B018


def test_version_and_script(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == "nibkit " + re.search(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE)[1] + "\n"
    module, function = re.search(r'^nibkit = "(.+):(.+)"$', PYPROJECT, re.MULTILINE).groups()
    assert getattr(sys.modules[module], function) is cli.main


def test_hints_name_what_can_be_installed(tmp_path, monkeypatch):
    """Of a clone its folder, of a wheel the repository; and every hint names extras that there are."""
    assert paths.install("dask") == f"pip install -e '{ROOT}[dask]'"
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "nibkit")
    about = Message()
    about["Project-URL"] = "repository, https://github.com/some/fork"
    monkeypatch.setattr(metadata, "metadata", lambda name: about)
    assert paths.install("a,b") == "pip install 'nibkit[a,b] @ git+https://github.com/some/fork'"
    files = [*ROOT.glob("nibkit/**/*.py"), *ROOT.glob("*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("tests/*.py")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files if file.name != "test_cli.py")
    named = re.findall(r"install\('([\w,]+)'\)", text) + re.findall(r"pip install '\.\[([\w,]+)\]'", text)
    extras = set(re.findall(r"^(\w+) = \[", PYPROJECT, re.MULTILINE))
    assert len(named) > 8 and set(",".join(named).split(",")) <= extras
    assert not re.search(r"pip install '?nibkit\b(?!\S* @ git\+)", text)


def test_benchmark_goes_on_where_it_was_and_ends_with_the_table(tmp_path, capsys):
    out = tmp_path / "new" / "rows.csv"
    command = ["benchmark", "--data", "scenes-objects", "--methods", "centre", "random", "--out", str(out)]
    assert cli.main([*command, "--samples", "2"]) == 0
    first = out.read_text().splitlines()
    assert cli.main([*command, "--samples", "3"]) == 0
    assert out.read_text().splitlines()[: len(first)] == first and len(first) == 5  # seconds and all
    rows = pd.read_csv(out)
    said = capsys.readouterr().out
    assert "on 3 of 256 pairs of scenes-objects" in said and "the paper's" not in said
    means = rows.groupby("label").image_drop.mean()
    assert re.search(rf"\ncentre +3 +{means['centre']:.1f} \(", said)
    assert cli.main([*command[:-1], str(tmp_path / "b.csv"), "--methods", "nip", "--model", "ViT-Z"]) == 2
    assert "method='nip' is not one of: nib" in capsys.readouterr().err and not (tmp_path / "b.csv").exists()
