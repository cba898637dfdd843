"""The file of a run: one run's at a time, a file and nothing else, and whatever captions and names hold."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from test_benchmark import Pair, Pairs, go, pairs, read


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a \ud83d"])
def test_names_that_a_row_cannot_hold_are_refused(golden_clip, tmp_path, bad):
    named = pairs(2)
    named[1].id = bad
    with pytest.raises(
        ValueError, match="the name of a pair, 'a.*', holds a line break or half of a sign; give it another"
    ):
        go(golden_clip, named, tmp_path / "rows.csv")
    with pytest.raises(ValueError, match="the name of a method, "):
        go(golden_clip, pairs(1), tmp_path / "rows.csv", methods={bad: ("random", {})})
    named = pairs(1)
    named.name = bad
    with pytest.raises(ValueError, match="the name of a dataset, "):
        go(golden_clip, named, tmp_path / "rows.csv")
    assert not list(tmp_path.iterdir())


def test_odd_captions_are_rows_that_a_run_can_go_on_from(golden_clip, tmp_path):
    """Half an emoji, and a text beyond the 131,072 characters that Python's csv reads by default."""
    odd = Pairs(Pair(k, text) for k, text in enumerate(["a cat", "a \ud83d\ndog", "x " * 100_000, "a cow"]))
    rows = go(golden_clip, odd, tmp_path / "rows.csv", methods=["centre"], batch=1)
    assert list(rows.error == "") == [True, False, False, True] and rows.text[1] == r"a \ud83d dog"
    assert (
        "ValueError: 'a \\ud83d\\ndog' holds half of a sign" in rows.error[1]
        and "this model reads at most" in rows.error[2]
    )
    again = go(golden_clip, odd, tmp_path / "rows.csv", methods=["centre", "random"], batch=1)
    pd.testing.assert_frame_equal(again[again.method == "centre"].reset_index(drop=True), rows)
    assert len(read(tmp_path / "rows.csv")) == 8


def test_a_file_of_rows_is_one_run_s_at_a_time(golden_clip, tmp_path):
    """While a run is at work, another into its file is refused, whatever its settings; another file is free."""
    out, said = tmp_path / "rows.csv", []

    class Meanwhile(Pair):
        @property
        def image(self):
            for file, options in ((out, {"seed": 1}), (out, {}), (tmp_path / "other.csv", {"seed": 1})):
                try:
                    said.append(len(go(golden_clip, pairs(1), file, methods=["random"], **options)))
                except ValueError as error:
                    said.append(str(error))
            return super().image

    alone = go(golden_clip, pairs(2), methods=["random"])
    rows = go(golden_clip, Pairs([Pair(0), Meanwhile(1)]), out, methods=["random"])
    refused = f"{out} is being written by another run; wait until it ends, or choose another file"
    assert said == [refused, refused, 1]
    pd.testing.assert_frame_equal(rows.drop(columns="seconds"), alone.drop(columns="seconds"))
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{n}.csv{s}" for n in ("rows", "other") for s in ("", ".settings.json")
    }
    assert len(go(golden_clip, pairs(3), out, methods=["random"])) == 3  # it has let go


def test_two_processes_into_one_file(golden_clip, golden_folder, tmp_path):
    out = tmp_path / "rows.csv"
    run = f"go(load('hf:{golden_folder}', 'cpu'), pairs(2, wait=True), {str(out)!r})"
    code = f"from test_benchmark import *; from nibkit import load; {run}"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    other = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths})
    try:
        while not out.exists():
            assert other.poll() is None
            time.sleep(0.1)
        with pytest.raises(ValueError, match="is being written by another run"):
            go(golden_clip, pairs(2), out, methods=["random"], seed=7)
    finally:
        other.kill()
        other.wait()
    assert len(go(golden_clip, pairs(2), out)) == 6  # a killed run holds nothing


@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_rows_go_into_a_file_alone(golden_clip, tmp_path, kind):
    out = tmp_path / "rows.csv"
    out.symlink_to("/dev/full") if kind == "device" else os.mkfifo(out)
    with pytest.raises(ValueError, match="rows.csv is a pipe or a device, which a run cannot go on in; choose a file"):
        go(golden_clip, pairs(1, wait=True), out)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
