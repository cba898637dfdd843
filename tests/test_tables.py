"""The committed tables of reports/ are what this package computes: the notebooks' own code again, on fewer pairs.

Numbers agree within tolerances, so that another machine's last digits pass; what a clock said is not kept.
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from nibkit import benchmark
from nibkit.reports import parameters as reports
from nibkit.reports.tidy import CLOCK
from nibkit.study import claims

ROOT = Path(__file__).parents[1]
PLANNED = {run.name: run for run in reports.plan(ROOT / "notebooks")}
COMMITTED = sorted(name for name in PLANNED if (ROOT / "reports" / name).is_dir())
MEASURED = [name for name in COMMITTED if name[:2] in ("03", "04", "05", "06")]  # rows of the four metrics
WHOLE = [name for name in COMMITTED if name[:2] in ("00", "08")]  # seconds each, so all of their tables


def code(run: reports.Run) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(run.notebook, as_version=4).cells if cell.cell_type == "code"]


def execute(run: reports.Run, until: str = "", **settings) -> dict:
    """The notebook's variables after its cells, up to the one that makes `until`, ran with the report's parameters."""
    names = {"display": lambda *shown: None}
    for cell in code(run):
        if cell.id == "colab":  # it installs, in IPython's own words
            continue
        exec(cell.source, names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= run.settings | settings
        if until in names:
            break
    plt.close("all")
    return names


def committed(name: str, table: str, **options) -> pd.DataFrame:
    return pd.read_csv(ROOT / "reports" / name / table, **options)


def check(ours: pd.DataFrame, kept: pd.DataFrame) -> None:
    """Same rows and columns, the same words, numbers within 1 % of themselves, or of the column's largest where that is
    less than 0.05 (drops: 0.05, since a small drop is a difference of near cosines)."""
    ours = ours[[column for column in ours if not CLOCK.search(str(column))]]
    assert list(ours.columns) == list(kept.columns) and len(ours) == len(kept)
    for column in kept:
        if pd.api.types.is_numeric_dtype(kept[column]) and kept[column].dtype != bool:
            atol = 0.05 if "drop" in str(column) else min(0.05, 0.01 * kept[column].abs().max())
            np.testing.assert_allclose(ours[column], kept[column], rtol=0.01, atol=atol, err_msg=str(column))
        else:
            assert list(ours[column].fillna("")) == list(kept[column].fillna("")), column


def check_rows(ours: pd.DataFrame, kept: pd.DataFrame) -> None:
    """`check`, but for what may differ from machine to machine, and with the pairs that share a batch: whether a cosine
    that hardly moves rose or fell, and where an integral put its nodes."""
    assert list(ours.label) == list(kept.label)
    for drop in ("image_drop", "text_drop"):
        rose = drop.replace("drop", "increase")
        level = (ours[drop] < 0.5) & (kept[drop] < 0.5) & kept[rose].isin([0, 100])
        ours[rose] = ours[rose].mask(level, kept[rose])
    exact = kept.label.str.contains("exact|carry")
    for metric in benchmark.METRICS:
        np.testing.assert_allclose(ours[metric][exact], kept[metric][exact], rtol=0.05, atol=0.5, err_msg=metric)
    check(ours[~exact], kept[~exact])


@pytest.mark.parametrize("name", MEASURED)
def test_rows_of_the_first_pair(name, tmp_path):
    ours = execute(PLANNED[name], until="rows", n_pairs=1, out=str(tmp_path))["rows"]
    kept = committed(name, "rows.csv", dtype={"error": str})
    check_rows(ours.reset_index(drop=True), kept[kept.pair == kept.pair[0]].reset_index(drop=True))


@pytest.mark.parametrize("name", MEASURED)
def test_summary_belongs_to_the_rows(name):
    ours = benchmark.summary(committed(name, "rows.csv").assign(seconds=1.0)).reset_index(drop=True)
    check(ours, committed(name, "summary.csv", index_col=0).reset_index(drop=True))


@pytest.mark.parametrize("name", WHOLE)
def test_all_tables_of_a_quick_notebook(name, tmp_path):
    execute(PLANNED[name], out=str(tmp_path / name))
    made = sorted((tmp_path / name).glob("*.csv"))
    assert made
    for file in made:
        check(pd.read_csv(file), committed(name, file.name))


# ---- what the notebooks show


def numbers(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])", text)


@pytest.mark.parametrize("name", COMMITTED)
def test_a_notebook_shows_the_numbers_of_its_tables(name):
    run = PLANNED[name]
    if any(run.settings[key] != entry["default"] for key, entry in reports.declared(run.notebook).items()):
        pytest.skip("the notebook is committed with other parameters than this report")
    tables = "\n".join(file.read_text() for file in (ROOT / "reports" / name).glob("*.csv"))
    kept = np.sort([float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", tables)])
    for cell in code(run):
        if cell.source.startswith("# NBVAL_CHECK_OUTPUT"):
            for number in numbers("".join(output.get("text", "") for output in cell.outputs)):
                number = f"{float(number):.5g}"  # a rounded float32 may end in 00003
                digits = len(number.partition(".")[2])
                near = kept[np.abs(kept - float(number)).argmin()]
                assert abs(near - float(number)) <= 0.51 * 10**-digits, f"{number} is in no table of reports/{name}"


def answer(name: str) -> str:
    (first, *_) = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    return " ".join(re.search(r"\*\*Answer\.\*\* (.*?)\n\n", first.source, re.DOTALL)[1].split())


def sets(name: str, table: str, **options) -> list[pd.DataFrame]:
    """A table of the objects' report and of the captions'."""
    return [committed(f"{name}-scenes-{data}", table, **options) for data in ("objects", "captions")]


def test_the_answer_of_00():
    said, found, gain = answer("00_index"), claims.statements(), claims.gains()["mean"]
    words = "no one two three four five six seven eight nine ten".split()
    holds = words[(found.verdict == "holds").sum()]
    assert said.startswith(f"{holds.capitalize()} of {words[len(found)]} statements hold")
    assert f"{gain.text_drop:.1f} %" in said and f"NIB is {gain.fps:.1f} % faster" in said
    assert f"{claims.speedups()['fastig']:.1f} % faster than FastIG" in said
    assert committed("12_ground_truth", "negative.csv", index_col=0).verdict["nib"] == "open"


def test_the_answer_of_02():
    """The animal named is higher by every method; the other is below 0 under one of two captions, by NIB's rules."""
    table = committed("02_single_example", "negative_property.csv").pivot(
        index=["method", "text"], columns="inside", values="score"
    )
    dog, cat = (table.xs(f"a {name}", level="text") for name in ("dog", "cat"))
    assert (dog.dog > dog.cat).all() and (cat.cat > cat.dog).all()
    published = dog.index.str.contains("10 steps")
    assert (dog.cat[published] < 0).all() and (cat.dog[published] > 0).all()
    exact = dog.index.str.contains("exact")
    assert (dog.cat[exact] > 0).all() and (cat.dog[exact] < 0).all()
    assert committed("02_single_example", "negative_property.csv").query("method == 'M2IB'").lowest_patch.min() > 0


def test_the_answer_of_03():
    drops = [
        table.loc["nib", ["image_drop", "text_drop"]] for table in sets("03_benchmark", "summary.csv", index_col=0)
    ]
    (image, text), (image2, text2) = ([f"{x:.1f}" for x in drop] for drop in drops)
    said = (
        f"NIB's mean drop is {image} points (objects) and {image2} (captions) in pictures, {text} and {text2} in texts."
    )
    assert said in answer("03_benchmark")
    for table in sets("03_benchmark", "failing.csv"):
        assert (table.both == 0).all()
    for table in sets("03_benchmark", "against_controls.csv"):
        lost = table[(table.metric == "image_drop") & (table.verdict == "loses")].label.value_counts()
        assert {"m2ib", "chefer"} <= set(lost.index[lost == 2])
    for table in sets("03_benchmark", "compared.csv", index_col=0):
        best = table.loc["image_drop"]
        assert best.p_holm > 0.05 and best.low < 0 < best.high
    assert all((table.p_holm >= 0.05).all() for table in sets("03_benchmark", "agreement.csv"))


def test_the_answer_of_04():
    """In pictures more steps go to carry, not to the whole integral, and the metrics show little of it."""
    for table in sets("04_num_steps", "integral.csv"):
        found = table.set_index(["of", "part", "passes"])
        carry, whole = (found.loc[of, "image"] for of in ("carry", "exact"))
        assert min(carry.correlation[20], carry.correlation[200]) > 0.95
        assert carry.gap[20] < whole.gap[200]
    for table in sets("04_num_steps", "integral_pairs.csv"):
        integrals = table[table.rule == table.of]
        assert (integrals.gap <= 1).mean() > 0.9
    for table in sets("04_num_steps", "differences.csv"):
        steady = table[table["difference of"] == "nib steps=20 - nib steps=10"]
        assert (steady.p_holm > 0.05).all()


def test_the_answer_of_05():
    trends = [table.set_index("metric").verdict for table in sets("05_target_layer", "trend.csv")]
    assert [(k, m, v[m]) for k, v in enumerate(trends) for m in v.index if v[m] != "open"] == [
        (0, "text_increase", "against")
    ]
    best = {}
    for data, table in zip(("objects", "captions"), sets("05_target_layer", "target_layer.csv")):
        for source, means in table[table.layer.between(2, 9)].groupby("source"):
            means = means.set_index("layer")
            best |= {
                (source, data, m): means[m].idxmax() if up else means[m].idxmin()
                for m, up in benchmark.HIGHER_IS_BETTER.items()
            }
            if source == "ours":
                assert means.image_drop.idxmax() == 9
    assert {key[1:] for key, layer in best.items() if layer == 9 and key[0] == "paper"} == {
        (data, metric) for data in ("objects", "captions") for metric in ("text_drop", "text_increase")
    }


def test_the_answer_of_06():
    said = answer("06_m2ib_beta")
    ours = sets("06_m2ib_beta", "summary.csv", index_col=0)
    (low, high, beta), (low2, high2, beta2) = (
        (t.image_drop[0.01], t.image_drop.max(), t.image_drop.idxmax()) for t in ours
    )
    assert (
        f"from {low:.1f} points at beta 0.01 to {high:.1f} at {beta:g} (objects) "
        f"and from {low2:.1f} to {high2:.1f} at {beta2:g}" in said
    )
    assert all(table.image_drop[0.9] < table.image_drop.max() for table in ours)
    for table in sets("06_m2ib_beta", "m2ib_beta.csv"):
        assert table[table.source == "paper"].image_drop.is_monotonic_increasing
    (low, high), (low2, high2) = ((table.text_drop[0.01], table.text_drop.max()) for table in ours)
    assert f"from {low:.1f} to {high:.1f} points (objects) and from {low2:.1f} to {high2:.1f} (captions)" in said
    for table in sets("06_m2ib_beta", "ends.csv", index_col=0):
        ends = table.loc["text_drop"]
        assert ends.difference < 0 and ends.p_holm < 0.05
    trends = sets("06_m2ib_beta", "trend.csv", index_col=0)
    clear = [(k, metric) for k, table in enumerate(trends) for metric in table.index[table.verdict != "open"]]
    assert "text_increase" in {metric for _, metric in clear}
    assert {trends[k].verdict[metric] for k, metric in clear} == {"against"}


# ---- the checks themselves


@pytest.mark.parametrize("column", ["image_drop", "text_increase", "passes"])
def test_a_wrong_number_in_a_table_is_found(column):
    kept = committed("03_benchmark-scenes-objects", "rows.csv", keep_default_na=False).head(8)
    wrong = kept.copy()
    wrong.loc[4, column] += 2
    check_rows(kept.copy(), kept)
    with pytest.raises(AssertionError, match=column):
        check_rows(kept.copy(), wrong)


def test_a_wrong_score_in_a_table_of_scores_is_found():
    """Scores are small: most of them are below 0.05."""
    kept = committed("08_remote_sensing", "patches.csv")
    wrong = kept.copy()
    wrong.loc[wrong.score.abs().sub(0.03).abs().idxmin(), "score"] = 0.0
    check(kept.copy(), kept)
    with pytest.raises(AssertionError, match="score"):
        check(wrong, kept)
