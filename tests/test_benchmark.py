"""Benchmark: rows that survive a kill, and the tables over them."""

import copy
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

import nibkit
from nibkit import benchmark
from nibkit.benchmark import METRICS, batch, beside_paper, run, style, summary, to_latex
from nibkit.methods import method
from nibkit.metrics import corrected_drops, drops, metric, perturbation
from nibkit.metrics import stats as ranking

METHODS = {"nib": ("nib", {"steps": 3}), "nib 2": ("nib", {"steps": 2}), "random": ("random", {})}
TEXTS = ["a dog", "a cat and a dog", 'a "red", round bus', "two birds on the water"]


class Pairs(list):
    name = "noise"


class Pair:
    """A picture of noise; `wait` keeps its readers until they are killed."""

    def __init__(self, k, text=None, wait=False):
        self.id, self.text, self.wait, self.k = f"noise/{k}", TEXTS[k % len(TEXTS)] if text is None else text, wait, k

    @property
    def image(self):
        while self.wait:
            time.sleep(0.1)
        return Image.fromarray(np.random.default_rng(self.k).integers(0, 256, (40, 30, 3), np.uint8))


class Broken(Pair):
    image = property(lambda self: Image.open("no such picture.png"))


def pairs(n, **options):
    return Pairs(Pair(k, **options) for k in range(n))


def go(clip, dataset, out=None, methods=METHODS, batch=3, **options):
    return run(clip, dataset, methods, out=out, batch=batch, progress=False, options={"layer": 9}, **options)


def read(file):
    return pd.read_csv(file, float_precision="round_trip").fillna({"error": ""})


def assert_same(got, want):
    pd.testing.assert_frame_equal(got.drop(columns="seconds"), want.drop(columns="seconds"), check_exact=True)
    assert (got.seconds.isna() == want.seconds.isna()).all()


@pytest.fixture(scope="module")
def undisturbed(golden_clip, tmp_path_factory):
    """Rows of 7 pairs, the third of them broken, and their file."""
    out = tmp_path_factory.mktemp("benchmark") / "rows.csv"
    dataset = pairs(7)
    dataset[2] = Broken(2)
    return dataset, go(golden_clip, dataset, out), out


def test_rows(golden_clip, undisturbed):
    dataset, rows, out = undisturbed
    first = ["dataset", "pair", "picture", "text", "label", "method", "steps"]
    assert list(rows) == [*first, *METRICS, "seconds", "passes", "error"]
    assert list(rows.method[:3]) == ["nib", "nib", "random"] and list(rows.steps[:3].fillna(0)) == [3, 2, 0]
    assert list(zip(rows.pair, rows.label)) == [(p.id, label) for p in dataset for label in METHODS]
    assert set(rows.dataset) == {"noise"}
    assert list(rows.text[[6, 9]]) == ['a "red", round bus', "two birds on the water"]
    good = rows[rows.pair != "noise/2"]
    assert (good.error == "").all() and good[METRICS].notna().all(axis=None) and (good.seconds > 0).all()
    assert list(good.passes[:3]) == [3, 2, 0]

    pixels, ids = golden_clip.preprocess([dataset[4].image]), golden_clip.tokenize([dataset[4].text])
    a = nibkit.METHODS["nib"](golden_clip, pixels, ids, layer=9, steps=3)
    want = nibkit.metrics.confidence(golden_clip, pixels, ids, a.heatmap(), a.word_scores())
    np.testing.assert_allclose(rows.loc[12, METRICS].astype(float), want.loc[0], atol=1e-3)


def test_file_holds_the_same_table(undisturbed):
    _, rows, out = undisturbed
    pd.testing.assert_frame_equal(read(out), rows, check_exact=True, check_dtype=False)


def test_without_a_file_and_with_names(golden_clip, undisturbed):
    dataset, rows, _ = undisturbed
    assert_same(go(golden_clip, dataset), rows)
    assert list(go(golden_clip, dataset, methods=["centre", "random"], n_pairs=1).label) == ["centre", "random"]


def test_broken_pairs_become_rows_and_the_others_go_on(golden_clip):
    dataset = Pairs([Pair(0), Broken(1), Pair(2, "dog " * 200), Pair(3, ""), Pair(4), Pair(5, float("nan")), Pair(6)])
    rows = go(golden_clip, dataset, methods=["random", "centre"], batch=7)
    reasons = rows.pivot(index="pair", columns="label", values="error")
    assert (reasons.random == reasons.centre).all()
    assert re.match("FileNotFoundError: .*no such picture.png", reasons.random["noise/1"])
    assert "has 202 tokens; this model reads at most 77" in reasons.random["noise/2"]
    assert reasons.random["noise/3"] == "ValueError: the caption '' has no word to score"
    assert reasons.random["noise/5"] != ""
    failed = rows.pair.isin(["noise/1", "noise/2", "noise/3", "noise/5"])
    assert rows[failed][[*METRICS, "seconds", "passes"]].isna().all(axis=None)
    assert (rows[~failed].error == "").all() and rows[~failed][METRICS].notna().all(axis=None)


def _picky(kind):
    """`random`, but the text "a dog" makes it raise."""

    @method()
    def picky(clip, pixels, ids, *, seed=0):
        if any(torch.equal(i, clip.tokenize(["a dog"])[0]) for i in ids):
            raise kind("not\nthis one")
        return nibkit.METHODS["random"](clip, pixels, ids, seed=seed)

    return picky


def test_a_method_that_fails_costs_only_its_pair(golden_clip, monkeypatch):
    _picky(RuntimeError)
    rows = go(golden_clip, pairs(6), methods=["picky", "random"])
    picky, random = (rows[rows.label == m].reset_index(drop=True) for m in ("picky", "random"))
    assert list(picky.error) == ["RuntimeError: not this one", "", "", "", "RuntimeError: not this one", ""]
    assert (random.error == "").all()
    some = [1, 2, 3, 5]
    np.testing.assert_allclose(picky.loc[some, METRICS], random.loc[some, METRICS], atol=1e-3)


def test_an_interrupt_passes_through_and_the_run_goes_on(golden_clip, monkeypatch, tmp_path):
    _picky(KeyboardInterrupt)
    dataset = pairs(4)[1:] + pairs(1)  # the bad one last
    out = tmp_path / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        go(golden_clip, dataset, out, methods=["picky"], batch=2)
    assert list(pd.read_csv(out).pair) == ["noise/1", "noise/2"]
    with open(out, "a") as file:
        file.write("noise,noi")  # as a kill leaves it
    with pytest.raises(KeyboardInterrupt):
        go(golden_clip, dataset, out, methods=["random", "picky"], batch=2)
    assert list(zip(read(out).pair, read(out).label)) == [
        *(("noise/1", "picky"), ("noise/2", "picky")),
        *((p.id, "random") for p in dataset),
    ]
    monkeypatch.setitem(nibkit.METHODS, "picky", nibkit.METHODS["random"])
    assert len(go(golden_clip, dataset, out, methods=["picky"], batch=2)) == 4


def test_cut_anywhere_it_ends_with_the_same_table(golden_clip, undisturbed, tmp_path, monkeypatch):
    dataset, rows, out = undisturbed
    content, settings = out.read_bytes(), out.with_name("rows.csv.settings.json").read_bytes()
    ends = [m.end() for m in re.finditer(b"\n", content)]
    cuts = [20, ends[0] + 40, ends[4], ends[12] - 1, ends[15] + 30, len(content) - 1, len(content)]
    ran, results = [], batch._results
    monkeypatch.setattr(batch, "_results", lambda *a: ran.append(a) or results(*a))
    for cut in cuts:
        file = tmp_path / f"{cut}.csv"
        file.write_bytes(content[:cut])
        file.with_name(f"{cut}.csv.settings.json").write_bytes(settings)
        ran.clear()
        assert_same(go(golden_clip, dataset, file), rows)
        assert_same(read(file).astype(rows.dtypes), rows)
    assert ran == []  # the last file was whole: no method ran again, though the broken picture was tried


CHILD = """
import sys, torch, nibkit
from test_benchmark import Pair, go, pairs
folder, out, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
dataset = pairs(7)
dataset[5].wait = True  # hangs in the second batch's preparation
go(nibkit.load(f"hf:{folder}", device="cpu"), dataset, out)
"""


def test_killed_and_started_again(golden_clip, golden_folder, tmp_path):
    out = tmp_path / "deep" / "rows.csv"
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", CHILD, str(golden_folder), str(out), str(torch.get_num_threads())]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    try:
        while child.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") == 1 + 3 * len(METHODS)):
            time.sleep(0.05)
        assert child.poll() is None, "the child ended before it could be killed"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    written = read(out)
    rows = go(golden_clip, pairs(7), out)
    assert_same(rows, go(golden_clip, pairs(7)))
    kept = rows.merge(written[["pair", "label", "seconds"]], on=["pair", "label"])
    assert len(kept) == 9 and (kept.seconds_x == kept.seconds_y).all()  # not measured again


def test_more_pairs_and_methods_may_be_asked_for(golden_clip, undisturbed, tmp_path):
    dataset, rows, _ = undisturbed
    out = tmp_path / "rows.csv"
    one = go(golden_clip, dataset, out, methods={"random": METHODS["random"]}, n_pairs=3)
    assert len(one) == 3
    assert_same(go(golden_clip, dataset, out), rows)
    assert_same(go(golden_clip, dataset, out, methods={"random": METHODS["random"]}, n_pairs=3), one)
    assert len(pd.read_csv(out)) == len(rows)  # what was not asked for stays


def test_other_settings_are_refused(golden_clip, undisturbed):
    dataset, _, out = undisturbed
    before = out.read_bytes()
    other = Pairs(dataset)
    other.name = "other"
    with pytest.raises(ValueError, match="rows.csv was made with dataset = noise, not other; choose another file or "):
        go(golden_clip, other, out)
    with pytest.raises(ValueError, match="made with protocol = paper, not corrected"):
        go(golden_clip, dataset, out, protocol="corrected")
    with pytest.raises(ValueError, match="made with methods = .*'steps': 3.*not .*'steps': 4"):
        go(golden_clip, dataset, out, methods={"nib": ("nib", {"steps": 4})})
    with pytest.raises(ValueError, match="made with methods = .*'seed': 0.* not .*'seed': 1"):
        go(golden_clip, dataset, out, seed=1)
    retrained = copy.copy(golden_clip)
    retrained.model = copy.deepcopy(golden_clip.model)
    retrained.model.logit_scale.data += 1
    with pytest.raises(ValueError, match=r"made with model = (.*), weights [0-9a-f]{8}, not \1, weights [0-9a-f]{8}; "):
        go(retrained, dataset, out)
    assert out.read_bytes() == before


def test_a_file_of_unknown_origin_is_refused(golden_clip, tmp_path):
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        ValueError, match="mine.csv has no mine.csv.settings.json beside it that says how it was made; choose"
    ):
        go(golden_clip, pairs(1), tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize(
    "content, settings, message",
    [
        (b"a,b\n1,2\n", None, "rows.csv is not a table of this run: its columns are a, b; choose another file"),
        (b"half a line", None, "rows.csv is not a table of this run: its columns are ; choose another file"),
        (
            b"noise,noise/0,,a dog,random,random,x,0,0,0,0,0,\n",
            None,
            "is not a table of this run: could not convert .* 'x'; choose",
        ),
        (b"\xff\n", None, "is not a table of this run: .*; choose another file"),
        (b"half a line", "{", "rows.csv has no rows.csv.settings.json beside it that says how it was made"),
        (b"half a line", "[]", "rows.csv has no rows.csv.settings.json beside it that says how it was made"),
    ],
)
def test_a_file_that_is_no_table_of_the_run_is_refused_as_it_is(golden_clip, tmp_path, content, settings, message):
    out, beside = tmp_path / "rows.csv", tmp_path / "rows.csv.settings.json"
    go(golden_clip, pairs(1), out, methods=["random"])
    out.write_bytes(out.read_bytes().split(b"\n")[0] + b"\n" + content if content.startswith(b"noise") else content)
    beside.write_text(settings or beside.read_text())
    before = out.read_bytes(), beside.read_text()
    with pytest.raises(ValueError, match=message):
        go(golden_clip, pairs(1), out, methods=["random"])
    assert (out.read_bytes(), beside.read_text()) == before


def test_a_file_that_pandas_saved_again_goes_on(golden_clip, undisturbed, tmp_path):
    dataset, rows, out = undisturbed
    pd.read_csv(out, float_precision="round_trip").to_csv(tmp_path / "rows.csv", index=False)
    assert b",,,,," in (tmp_path / "rows.csv").read_bytes()
    (tmp_path / "rows.csv.settings.json").write_bytes(out.with_name("rows.csv.settings.json").read_bytes())
    assert_same(go(golden_clip, dataset, tmp_path / "rows.csv"), rows)


def test_rows_of_an_edited_data_set_are_refused(golden_clip, tmp_path):
    """A row put in at the top gives every pair another's id; one whose text was mended is another pair."""
    out = tmp_path / "rows.csv"
    first = Pairs([Pair(0, "a cat"), Pair(1, "a  dgo")])
    kept = go(golden_clip, first, out, methods=["random"])
    before = out.read_bytes()
    for texts in (["a new first", "a cat", "a dog"], ["a cat", "a dog"]):
        edited = Pairs(Pair(k, text) for k, text in enumerate(texts))
        message = (
            "rows.csv holds pair 'noise/[01]' with the text '.*', the data set now says '.*'; choose another file or"
        )
        with pytest.raises(ValueError, match=message):
            go(golden_clip, edited, out, methods=["random", "centre"])
    assert out.read_bytes() == before
    assert_same(go(golden_clip, first, out, methods=["random"]), kept)


def test_a_mended_caption_is_tried_again_by_some_of_the_methods(golden_clip, tmp_path):
    out, long = tmp_path / "rows.csv", Pairs([Pair(0, "a cat"), Pair(1, "a dog " * 60)])
    assert list(go(golden_clip, long, out, methods=["random", "centre"]).error != "") == [False, False, True, True]
    mended = Pairs([Pair(0, "a cat"), Pair(1, "a dog")])
    assert (go(golden_clip, mended, out, methods=["random"]).error == "").all()


def test_what_failed_is_tried_again(golden_clip, tmp_path, monkeypatch):
    """And nothing that was done is lost or done again: other rows keep their seconds."""
    _picky(RuntimeError)
    out, dataset = tmp_path / "rows.csv", pairs(4)
    dataset[2] = Broken(2)
    before = go(golden_clip, dataset, out, methods=["random", "picky"])
    assert list(before.error != "") == [False, True, False, False, True, True, False, False]
    again = go(golden_clip, dataset, out, methods=["random", "picky"])
    pd.testing.assert_frame_equal(again, before)
    monkeypatch.setitem(nibkit.METHODS, "picky", nibkit.METHODS["random"])
    dataset[2] = Pair(2)
    mended = go(golden_clip, dataset, out, methods=["random", "picky"])
    assert (mended.error == "").all() and mended[METRICS].notna().all(axis=None)
    kept = before.error == ""
    pd.testing.assert_frame_equal(mended[kept], before[kept])
    assert_same(read(out).astype(mended.dtypes), mended)


def test_a_run_in_half_precision_has_rows_of_its_own(golden_clip, tmp_path):
    half = golden_clip.around(golden_clip.model, torch.bfloat16)
    go(golden_clip, pairs(1), tmp_path / "rows.csv", methods=["random"])
    with pytest.raises(ValueError, match=r"made with model = (.*), weights (\w+), not \1 in bfloat16, weights \2; "):
        go(half, pairs(1), tmp_path / "rows.csv", methods=["random"])
    about = benchmark.about(half, pairs(1), go(half, pairs(1), methods=["random"]))
    assert benchmark.caption(about).startswith(f"Ours: {golden_clip.name} in bfloat16, weights ")


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"methods": ["nib", "magic"]}, "method='magic' is not one of: nib, "),
        ({"methods": {"x": "nib"}}, r"methods\['x'\]='nib' is not \(name, options\) such as"),
        ({"methods": "nib"}, r"methods='nib' is one name; give a list of names: \['nib'\]"),
        ({"methods": {"x": ("nib", {"layer": 12})}}, r"layer=12 is not in 0..11 of this 12-block image tower"),
        ({"protocol": "papre"}, "protocol='papre' is not one of: paper, corrected"),
        ({"batch": 0}, "batch=0 is not a whole number >= 1"),
        ({"batch": 2.5}, "batch=2.5 is not a whole number >= 1"),
        ({"n_pairs": 1.5}, "n_pairs=1.5 is not a whole number >= 0"),
        ({"n_pairs": -1}, "n_pairs=-1 is not a whole number >= 0"),
    ],
)
def test_mistakes_are_refused_before_work_starts(golden_clip, tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        go(golden_clip, [Pair(0, wait=True)], tmp_path / "rows.csv", **bad)
    assert not list(tmp_path.iterdir())


def test_an_option_that_a_method_does_not_have_is_refused(golden_clip):
    with pytest.raises(TypeError, match="method 'random' has no option 'rule'; it takes batch_size, layer"):
        go(golden_clip, [Pair(0, wait=True)], methods={"x": ("random", {"rule": "exact"})})


def test_a_dataset_without_pairs_is_refused(golden_clip, tmp_path):
    with pytest.raises(ValueError, match="the dataset noise has no pairs"):
        go(golden_clip, pairs(0), tmp_path / "rows.csv")
    assert not list(tmp_path.iterdir())


def test_numpy_integers_among_the_options_resume(golden_clip, tmp_path):
    plans = ({"x": ("random", {"layer": layer})} for layer in (np.int64(8), 8))
    first, again = (go(golden_clip, pairs(1), tmp_path / "rows.csv", methods=plan) for plan in plans)
    pd.testing.assert_frame_equal(first, again)


def test_ids_must_differ(golden_clip):
    with pytest.raises(ValueError, match="two pairs of the dataset have the same id"):
        go(golden_clip, [Pair(1), Pair(1)])


# --- tables ------------------------------------------------------------------------------------------------------


def table(**methods) -> pd.DataFrame:
    """Rows from (image_drop, image_increase) per pair; None is a failure."""
    rows = []
    for label, values in methods.items():
        for k, value in enumerate(values):
            drop, up = value or (np.nan, np.nan)
            metrics = {"image_drop": drop, "image_increase": up, "text_drop": 2 * drop, "text_increase": up}
            rows.append(
                {
                    "dataset": "d",
                    "pair": f"d/{k}",
                    "label": label,
                    "method": label.split()[0],
                    **metrics,
                    "seconds": 0.5,
                    "passes": 10.0,
                }
            )
    return pd.DataFrame(rows)


def test_summary_by_hand():
    rows = table(b=[(1.0, 0.0), (2.0, 100.0), None, (6.0, 100.0)], a=[(4.0, 0.0)] * 4)
    s = summary(rows)
    assert list(s.index) == ["b", "a"] and s.index.name == "label"
    assert (s.n["b"], s.failures["b"], s.n["a"], s.failures["a"]) == (3, 1, 4, 0)
    assert (s.image_drop["b"], s.text_drop["b"], s.image_drop["a"]) == (3.0, 6.0, 4.0)
    assert s.image_increase["b"] == pytest.approx(200 / 3)
    assert (s.pairs_per_second["b"], s.passes["b"]) == (2.0, 10.0)
    assert (s.image_drop_low["a"], s.image_drop_high["a"]) == (4.0, 4.0)
    assert 1.0 <= s.image_drop_low["b"] < 3.0 < s.image_drop_high["b"] <= 6.0


def test_summary_of_nothing_but_failures():
    s = summary(table(a=[None, None]))
    assert (s.n["a"], s.failures["a"]) == (0, 2)
    assert s[[*METRICS, "image_drop_low"]].isna().all(axis=None)


def test_summary_intervals():
    """Between the percentile bootstrap's ends and beyond them on the long side; a lower level is narrower."""
    values = np.random.default_rng(1).gamma(2.0, size=200)
    rows = table(a=[(v, 0.0) for v in values])
    s, half = summary(rows).loc["a"], summary(rows, level=0.5).loc["a"]
    want = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=20000, rng=0).confidence_interval
    np.testing.assert_allclose([s.image_drop_low, s.image_drop_high], [want.low, want.high], atol=0.03)
    assert s.image_drop_low < half.image_drop_low < s.image_drop < half.image_drop_high < s.image_drop_high


def test_summary_by_two_columns():
    rows = pd.concat([table(a=[(1.0, 0.0)]), table(a=[(3.0, 0.0)]).assign(dataset="e")])
    assert list(summary(rows, by=["dataset", "label"]).image_drop.items()) == [(("d", "a"), 1.0), (("e", "a"), 3.0)]


@pytest.mark.parametrize(
    "dataset, role", [("scenes-objects", "imagenet"), ("scenes-captions", "flickr8k"), ("flickr8k", "flickr8k")]
)
def test_beside_paper(dataset, role):
    names = {"random": [(9.0, 0.0)], "nib": [(1.0, 0.0)], "rise (300 masks)": [(2.0, 0.0)], "nib exact": [(3.0, 0.0)]}
    got = beside_paper(summary(table(**names)), dataset)
    assert list(got.index) == ["nib", "rise (300 masks)"]
    assert list(got["image_drop"]["ours"]) == [1.0, 2.0]
    lines = (Path(nibkit.paths.bundled("paper")) / "table2_benchmark.csv").read_text().split()
    for label, name in {"nib": "nib", "rise (300 masks)": "rise"}.items():
        (line,) = [line for line in lines if line.startswith(f"{role},{name},")]
        paper = got.loc[label].xs("paper", level=1)
        assert list(paper.index) == [*METRICS, "pairs_per_second"]
        assert list(paper) == [float(x) for x in line.split(",")[2:]]


def test_beside_data_of_others_the_paper_has_no_figures():
    sides = beside_paper(summary(table(nib=[(1.0, 0.0)], xgrad=[(2.0, 0.0)])), "mine")
    assert list(sides.index) == ["nib"] and sides["image_drop", "ours"].tolist() == [1.0]
    assert sides.xs("paper", axis=1, level=1).isna().all(axis=None)
    assert style(sides).to_html().count("–") == 5


def test_style_puts_the_best_in_bold():
    s = summary(table(**{"a<b>": [(1.0, 0.0), (2.0, 100.0)], "c": [(3.0, 100.0), (3.0, 100.0)]}))
    html = style(s).to_html()
    assert "<b>1.5</b><br><small>1.0 to 2.0</small>" in html
    assert "<b>100.0</b><br><small>100.0 to 100.0</small>" in html
    assert html.count("<b>") == 4 and ">3.0<br>" in html
    assert "a&lt;b&gt;" in html and "image drop ↓" in html and "_low" not in html
    html = style(beside_paper(summary(table(nib=[(1.0, 0.0)])), "scenes-objects")).to_html()
    assert html.count("<b>") == 8 and "<b>1.0</b>" in html and "<b>0.90</b>" in html  # the paper's, of 1,000 pairs


def test_latex_says_what_style_says():
    s = summary(table(**{"nib exact": [(1.0, 0.0), (2.0, 100.0)], "c_d": [(3.0, 100.0), (3.0, 100.0)]}))
    of = pd.DataFrame([{"model": "a_b", "weights": "0a", "dataset": "x", "pairs": 2, "of": 2, "paper_pairs": np.nan}])
    text = to_latex(s, of.assign(failures=0))
    assert r"\textbf{1.5} {\scriptsize (1.0 to 2.0)}" in text and r"Ours: a\_b, weights 0a" in text
    assert text.count(r"\textbf") == 4 and all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert "NIB (exact) & " in text and r"c\_d & " in text and r"image drop $\downarrow$" in text and "_low" not in text
    beside = to_latex(beside_paper(summary(table(nib=[(1.0, 0.0)])), "scenes-objects"))
    assert r"\multicolumn{2}{c}{image drop $\downarrow$}" in beside and r"\textbf{0.90}" in beside
    assert "1.0} & -- &" in to_latex(beside_paper(summary(table(nib=[(1.0, 0.0)])), "mine"))


def test_style_leaves_the_speed_of_controls_blank():
    rows = table(nib=[(1.0, 0.0)], random=[(1.0, 0.0)])
    rows.loc[rows.label == "random", "passes"] = 0.0
    assert style(summary(rows)).data["pairs per second (ours: this run)"].to_dict() == {"nib": "2.00", "random": ""}


def test_other_metrics_have_their_own_columns_and_resume(golden_clip, tmp_path):
    metrics = [drops, corrected_drops, perturbation.areas(["image"], ["mean"], points=1)]
    names = [column for metric in metrics for column in metric.columns]
    rows = go(golden_clip, pairs(3), tmp_path / "rows.csv", methods=["random"], metrics=metrics)
    assert list(rows) == ["dataset", "pair", "picture", "text", "label", "method", *names, "seconds", "passes", "error"]
    assert (rows.error == "").all() and rows[names].notna().all(axis=None)
    more = go(golden_clip, pairs(4), tmp_path / "rows.csv", methods=["random"], metrics=metrics)
    pd.testing.assert_frame_equal(more[:3], rows)
    with pytest.raises(
        ValueError, match="was made with metrics = .'drops', 'corrected_drops', 'areas of image, mean, 1 points"
    ):
        go(golden_clip, pairs(3), tmp_path / "rows.csv", methods=["random"])


def test_corrected_columns_are_the_corrected_protocol(golden_clip):
    metrics = [drops, corrected_drops]
    rows = go(golden_clip, pairs(2), methods=["random"], metrics=metrics)
    pixels, ids = golden_clip.preprocess([p.image for p in pairs(2)]), golden_clip.tokenize([p.text for p in pairs(2)])
    a = nibkit.METHODS["random"](golden_clip, pixels, ids)
    for suffix, how in (("", {}), ("_corrected", {"protocol": "corrected", "relative": True})):
        want = nibkit.metrics.confidence(golden_clip, pixels, ids, a.heatmap(), a.word_scores(), **how)
        for column in ("image_drop", "text_drop", "text_increase"):
            np.testing.assert_allclose(rows[column + suffix].astype(float), want[column], atol=1e-3)


@metric({"spread": False, "darkness": None})
def spread(clip, batch, a):
    """A metric of the tests: how far the map's scores lie apart, and what the picture's mean is."""
    assert len(batch.pairs) == len(batch.pixels) == len(batch.ids) == len(a.image) and batch.protocol == "corrected"
    return pd.DataFrame({"spread": np.ptp(a.image, axis=(1, 2)), "darkness": batch.pixels.mean((1, 2, 3)).numpy()})


def test_a_metric_of_ones_own_through_run_summary_and_compare(golden_clip):
    labels = {
        "nib": ("nib", {"steps": 2}),
        "a": ("random", {"seed": 0}),
        "b": ("random", {"seed": 1}),
        "centre": ("centre", {}),
    }
    rows = go(golden_clip, pairs(6), methods=labels, metrics=[spread], protocol="corrected")
    assert (rows.error == "").all() and (rows.groupby("pair").darkness.nunique() == 1).all()
    found = summary(rows, spread.columns)
    assert list(found.index) == list(labels) and list(found.method) == ["nib", "random", "random", "centre"]
    mean = rows[rows.label == "a"].spread.mean()
    assert found.spread["a"] == pytest.approx(mean) and found.spread_low["a"] < mean < found.spread_high["a"]
    text = style(found, columns=spread.columns).to_html()
    assert "spread ↓" in text and "darkness</th>" in text and text.count("<b>") == 1 and text.count("<small>") == 8
    flat = {"spread": spread.columns["spread"]}
    compared = ranking.compare(rows, flat)
    assert (
        compared.n["spread"] == 6
        and compared.best_other["spread"] == rows[rows.label != "nib"].groupby("label").spread.mean().idxmin()
    )
    against = ranking.against_controls(rows, flat, controls=["a", "b"])
    assert list(against.label) == ["nib", "nib", "centre", "centre"]
    assert (np.sign(against.gain[:2]) == np.sign([found.spread[c] - found.spread["nib"] for c in "ab"])).all()
    assert list(ranking.means(rows, spread.columns).index.unique("metric")) == ["spread", "darkness"]
    assert list(summary(rows, flat, by="seed").index) == [0, 1]


@pytest.mark.parametrize(
    "metrics, message",
    [
        ([], "metrics=.. is not a list of metrics; nibkit.metrics.contract says"),
        (spread, "metrics=<function spread at .*> is not a list of metrics"),
        ([lambda clip, batch, a: pd.DataFrame()], "is not a list of metrics"),
        ([spread, spread], "two of the metrics have a column 'spread'; leave one out or rename it"),
    ],
)
def test_metrics_that_cannot_be_are_refused_before_work_starts(golden_clip, metrics, message):
    with pytest.raises(ValueError, match=message):
        go(golden_clip, [Pair(0, wait=True)], metrics=metrics)


def test_a_metric_that_breaks_its_word_is_a_reason(golden_clip):
    wrong = metric({"one": True})(lambda clip, batch, a: pd.DataFrame({"other": [1.0]}))
    rows = go(golden_clip, pairs(1), methods=["random"], metrics=[wrong])
    assert "metric <lambda> gave 1 rows of other, not 1 of one; a metric gives a row per pair" in rows.error[0]


def test_pairs_that_show_one_picture_say_so(golden_clip):
    rows = go(golden_clip, Pairs([Pair(0), Pair(1), Again(0)]), methods=["random"])
    assert rows.picture[0] == rows.picture[2] != rows.picture[1] and rows.pair.nunique() == 3
    assert summary(rows.assign(image_drop=[1.0, 3.0, 1.0])).image_drop_low.isna().sum() == 0
    one = summary(rows[rows.picture == rows.picture[0]]).loc[
        "random"
    ]  # two pairs, one picture: nothing to estimate from
    assert one.n == 2 and np.isnan(one.image_drop_low)


class Again(Pair):
    """The picture of a pair under another id."""

    def __init__(self, k):
        super().__init__(k, "another caption")
        self.id += " again"


def test_labels_that_differ_in_more_options_later_get_their_columns(golden_clip, tmp_path):
    """The file says what every label is, rows of before included."""
    out = tmp_path / "rows.csv"
    first = go(golden_clip, pairs(2), out, methods=["nib", "random"])
    assert "steps" not in first and "steps" not in read(out)
    more = {"nib": ("nib", {}), "nib 3": ("nib", {"steps": 3}), "random": ("random", {})}
    rows, kept = go(golden_clip, pairs(2), out, methods=more), read(out)
    assert list(rows.steps.fillna(0)) == [10, 3, 0] * 2 and list(rows.method) == ["nib", "nib", "random"] * 2
    pd.testing.assert_frame_equal(kept, rows, check_dtype=False)
    again = go(golden_clip, pairs(2), out, methods=["nib", "random"])
    pd.testing.assert_frame_equal(again, first)  # seconds too: nothing was run again
    pd.testing.assert_frame_equal(
        read(out).sort_values(["pair", "label"], ignore_index=True),
        kept.sort_values(["pair", "label"], ignore_index=True),
    )


def test_rows_of_before_labels_were_explained_are_refused(golden_clip, tmp_path):
    out = tmp_path / "rows.csv"
    out.write_text("dataset,pair,text,method,image_drop,image_increase,text_drop,text_increase,seconds,passes,error\n")
    out.with_name("rows.csv.settings.json").write_text(
        '{"measure": "confidence", "methods": {"random": ["random", {}]}}'
    )
    before = out.read_bytes()
    with pytest.raises(
        ValueError,
        match="rows.csv was made by an earlier nibkit, whose rows do not say what .*; choose another file or delete",
    ):
        go(golden_clip, pairs(1), out, methods=["random"])
    assert out.read_bytes() == before


def test_several_captions_are_resolved_before_the_run(scenes):
    """By the protocol asked for: each picture's own choice, or, as published, that of the batch's first."""
    singles = nibkit.data.load("scenes-objects")[:4]
    captions = tuple(p.text for p in singles)
    dataset = nibkit.data.PairDataset("several", [replace(p, captions=captions) for p in singles])
    chosen = {}
    for protocol in ("paper", "corrected"):
        chosen[protocol] = list(go(scenes, dataset, methods=["random"], protocol=protocol).text)
        assert chosen[protocol] == [p.text for p in dataset.resolve(scenes, protocol)]
    assert chosen["paper"] != chosen["corrected"] == list(captions)


def test_whose_numbers_a_table_holds(golden_clip, undisturbed):
    dataset, rows, _ = undisturbed
    about = benchmark.about(golden_clip, dataset, rows)
    digest = benchmark.checksum(golden_clip)
    assert re.fullmatch("[0-9a-f]{8}", digest) and (about.weights == digest).all()
    text = f"Ours: {golden_clip.name}, weights {digest}, on 7 of 7 pairs of noise; 3 failures"
    assert benchmark.caption(about) == text
    assert text in style(summary(rows), about).to_html()
    real = about.assign(model="<i>", dataset="flickr8k", paper_pairs=1000.0, failures=0, of=1200)
    assert benchmark.caption(real).endswith("on 7 of 1,200 pairs of flickr8k (the paper: 1,000)")
    assert "<i>" not in style(summary(rows), real).to_html()
    other = copy.deepcopy(golden_clip)
    next(iter(other.model.parameters())).data += 1e-3
    assert benchmark.checksum(other) != digest
