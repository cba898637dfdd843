"""What a cell would fail on after a while is refused before anything runs."""

import pytest
from PIL import Image

from nibkit import __main__ as cli
from nibkit.reports import early, runner
from nibkit.reports.parameters import Run


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setattr(runner, "execute", lambda *_, **__: pytest.fail("a notebook runs"))


@pytest.mark.parametrize(
    "given, message",
    [
        ("--only 02 -p layer 99", "-p layer 99: layer=99 is not in 0..11 of this 12-block"),
        ("--only 05 -p layers [0,12]", "-p layers [0, 12]: layer=12 is not in 0..11"),
        ("--only 01 -p sweep [-1]", "-p sweep [-1]: layer=-1 is not in"),
        ("--only 05 -p chosen 1.5", "chosen='1.5' is not of type int"),
        ("--only 02 -p picture nowhere.jpg", "nowhere.jpg cannot be read as a picture: No such file"),
        (
            "--only 02 -p picture 02_single_example.ipynb",
            "02_single_example.ipynb cannot be read as a picture: it is in none of",
        ),
        ("--only 03 -p dataset nowhere.csv", "-p dataset nowhere.csv: it is none of scenes-objects"),
        ("--only 03 -p dataset ../data/scenes/objects", "give other data with --data ../data/scenes/objects"),
        ("--only 08 -p pairs ../data", "data holds none of captions.csv"),
        ("--only 12 -p masked nowhere.csv", "-p masked nowhere.csv: dataset 'nowhere.csv' is not known"),
        ("--only 03 -p model nowhere.pt", "model 'nowhere.pt' is neither a file nor a folder"),
        ("--only 03 -p methods ['nib','nip']", "method='nip' is not one of: nib"),
        ("--only 03 -p protocol mine", "-p protocol mine: protocol='mine' is not one of: paper, corrected"),
        ("--only 05 -p rule simpson", "rule='simpson' is not one of: riemann"),
        ("--only 03 -p role mine", "role='mine' is not one of: imagenet, flickr8k, conceptual_captions"),
        ("--only 04 -p steps [3,0]", "steps=0 is not a whole number >= 1"),
        ("--only 03 -p n_pairs -1", "n_pairs=-1 is not a whole number >= 0"),
    ],
)
def test_what_a_notebook_would_fail_on_is_refused(nothing_runs, tmp_path, capsys, given, message):
    assert cli.main(["reports", "--out", str(tmp_path / "out"), *given.split()]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_good_values_pass_and_paths_are_read_from_the_notebook(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "notebooks/a.png")
    (tmp_path / "notebooks/a.csv").write_text("image,text\na.png,a cat\n")
    settings = {
        "model": "scenes",
        "picture": "a.png",
        "pairs": "a.csv",
        "dataset": "aerial",
        "masked": "scenes-captions",
        "layer": 11,
    }
    settings |= {
        "layers": [0, 11],
        "methods": ["nib"],
        "protocol": "paper",
        "steps": 1,
        "n_pairs": 0,
        "seed": -1,
        "rule": "exact",
    }
    run = Run("a", tmp_path / "notebooks/01_a.ipynb", settings, settings)
    early.check([run], settings)
    asked = []
    monkeypatch.setattr(early, "load", asked.append)
    early.check([run], ["steps", "n_pairs", "picture"])
    assert asked == []  # a model is loaded where it is asked for alone


def test_the_hub_is_left_alone(tmp_path):
    run = Run("a", tmp_path / "01_a.ipynb", {}, {"pairs": "hf:someone/else,test,image,text"})
    early.check([run], ["pairs"])
