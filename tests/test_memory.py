"""batch_size as a budget: as many rows as fit, the same numbers, mistakes refused."""

import pytest
from near import assert_near

import nibkit
from nibkit.models.towers import Block, bytes_of

QUICK = {
    "rise": {"masks": 30, "text_masks": 12},
    "m2ib": {"samples": 3, "steps": 3},
    "mfaba": {"steps": 2},
    "ig": {"steps": 4},
    "lime": {"samples": 12},
    "agi": {"k": 2, "steps": 2},
}
ROW = 50 * (20 * 64 + 2 * 4 * 50) * 4  # bytes of a picture of the golden model in one block


@pytest.fixture
def rows(monkeypatch):
    """How many rows each use of the last block worked on."""
    log = []
    real = Block.at_row
    monkeypatch.setattr(Block, "at_row", lambda self, x, *a: log.append(len(x)) or real(self, x, *a))
    return log


def test_sizes():
    assert [bytes_of(size) for size in ("auto", "500MB", "1.5GB")] == [5 * 10**8, 5 * 10**8, 15 * 10**8]


@pytest.mark.parametrize("size", [0, -1, True, 1.5, None, "", "big", "MB", "-1GB", "nanGB", "infGB", "10 rows"])
def test_bad_sizes_are_refused(size, golden_clip, golden_pair):
    with pytest.raises(ValueError, match="batch_size=.* is none of: rows"):
        nibkit.METHODS["nib"](golden_clip, *golden_pair, batch_size=size)


def test_rows_follow_the_budget(golden_clip, golden_pair):
    tower = golden_clip.image
    state = tower.state(golden_pair[0], 9)
    assert tower.rows_at_once(7, state, 9) == 7
    assert tower.rows_at_once(f"{10 * 4 * ROW / 1e6}MB", state, 9) == 10  # three blocks and one more
    assert tower.rows_at_once("0.001MB", state, 9) == 1


@pytest.mark.parametrize("name", sorted(set(nibkit.METHODS) - {"random", "centre"}))
def test_a_small_budget_gives_the_same_numbers(name, golden_clip, golden_pair):
    run, options = nibkit.METHODS[name], QUICK.get(name, {})
    large, small = (
        run(golden_clip, *golden_pair, **options, batch_size=size) for size in ("1GB", f"{8 * ROW / 1e6}MB")
    )
    for a, b in zip((large.image, *large.text), (small.image, *small.text), strict=True):
        assert_near(b, a, 1e-2 if name == "agi" else 2e-5)  # agi steps by signs, which rounding flips


def test_a_small_budget_is_kept(golden_clip, golden_pair, rows):
    """Four pairs in ten steps: 40 rows; a budget for 12 of them through blocks 9, 10 and 11."""
    nibkit.METHODS["nib"](golden_clip, *golden_pair, batch_size=f"{12 * 4 * ROW / 1e6}MB")
    assert rows[:7] == [4, 4, 12, 12, 12, 4, 1]  # both targets, the pictures' path, its closed end
    rows.clear()
    nibkit.METHODS["nib"](golden_clip, *golden_pair)
    assert max(rows) == 40
