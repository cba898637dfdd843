"""What `tidy` makes of a run's files: tables without a clock's columns, the earlier file where nothing is new."""

import numpy as np
import pytest
from PIL import Image

from nibkit.reports.tidy import tidy

TABLE = "label,drop,seconds\nnib,1.23456789,0.5\n\"a, b\",,7\n"


@pytest.fixture
def folders(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
    return tmp_path / "new", tmp_path / "old"


def test_tables_have_six_digits_and_their_times_beside_them(folders):
    new, old = folders
    (new / "rows.csv").write_text(TABLE)
    (new / "speed.times.csv").write_text(TABLE)
    tidy(new, old)
    assert (new / "rows.csv").read_text() == 'label,drop\nnib,1.23457\n"a, b",\n'
    assert (new / "rows.times.csv").read_text() == 'label,seconds\nnib,0.5\n"a, b",7\n'
    assert (new / "speed.times.csv").read_text() == TABLE


@pytest.mark.parametrize(
    ("kept", "same"),
    [("1.2346", True), ("1.2345001e+00", True), ("1.24", False), ("", False), ("many", False), ("nan", False)],
)
def test_a_table_gives_way_to_an_earlier_one_that_says_the_same(folders, kept, same):
    new, old = folders
    (new / "t.csv").write_text("label,drop\nnib,1.23456789\n")
    (old / "t.csv").write_text(f"label,drop\nnib,{kept}\n")
    tidy(new, old)
    assert (new / "t.csv").read_text() == f"label,drop\nnib,{kept if same else 1.23457}\n"


@pytest.mark.parametrize("columns", ["label,gap\nnib,1e-9\nm2ib,5\n", "label,gap\nnib,-3e-5\nm2ib,5\n"])
def test_rounding_noise_is_held_against_its_column(folders, columns):
    new, old = folders
    (new / "t.csv").write_text(columns)
    (old / "t.csv").write_text("label,gap\nnib,0.0\nm2ib,5\n")
    tidy(new, old)
    assert (new / "t.csv").read_bytes() == (old / "t.csv").read_bytes()


def test_another_word_row_or_column_is_news(folders):
    new, old = folders
    for change in ("label,drop\ngae,1\n", "label,drop\nnib,1\nnib,1\n", "label,rise\nnib,1\n", "label\nnib\n"):
        (new / "t.csv").write_text(change)
        (old / "t.csv").write_text("label,drop\nnib,1\n")
        tidy(new, old)
        assert (new / "t.csv").read_text() == change


def test_a_picture_that_looks_the_same_gives_way_and_one_with_another_digit_does_not(folders):
    new, old = folders
    pixels = np.random.default_rng(0).integers(0, 250, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(old / "a.png")
    (old / "b.png").write_bytes((old / "a.png").read_bytes())
    Image.fromarray(pixels + 1).save(new / "a.png")
    pixels[40:48, 40:45] = 255
    Image.fromarray(pixels).save(new / "b.png")
    before = (old / "a.png").read_bytes()
    tidy(new, old)
    assert (new / "a.png").read_bytes() == before
    assert (new / "b.png").read_bytes() != before
